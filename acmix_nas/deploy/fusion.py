"""A trained network in its fastest exact form, for inference. Nothing here needs NNI."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from acmix_nas.operators import (
    ACmix,
    ConvolutionPath,
    LinearPosition,
    Operator,
    Output,
    Projection,
)
from acmix_nas.slots.finding import places
from acmix_nas.slots.making import put
from acmix_nas.util.terminal import BrokenRun
from acmix_nas.util.timing import interleaved

__all__ = ["FusedSlot", "Fusion", "fuse"]

UNFUSED = "unfused"


class FusedSlot(NamedTuple):
    """What became of one operator: the form that was the fastest, and the least milliseconds of each that was tried."""

    slot: str
    operator: str
    form: str
    milliseconds: dict[str, float]


class Fusion(NamedTuple):
    """A fused network, and what was done.

    Attributes:
        slots: of each operator of this package.
        folded: batch norms that are now part of a convolution.
        linear: linear layers that now run as 1×1 convolutions.
        packed: convolutions, those included, whose weights lie ready for the CPU's.
        channels_last: whether weights lie in channels_last.
    """

    network: nn.Module
    slots: list[FusedSlot]
    folded: int
    linear: int
    packed: int
    channels_last: bool


@torch.no_grad()
def fuse(network: nn.Module, images: Tensor, repeats: int = 7, tolerance: float = 1e-5) -> Fusion:
    """Fold a trained network into its fastest exact form, measured on these images and their device.

    Batch norms go into the convolution or operator in front of them. α, β and a batch norm go into the weights of both paths
    (rows of attention sum to one); fc into the group convolution (`merged`), or it and Stage I into one dense kernel
    (`dense`), or neither (`factored`): equalities 3, 4 and 7 of docs/equalities.md. Positions become constants. Linear layers
    become 1×1 convolutions where those are faster, and weights are packed once for oneDNN's convolutions, not in every forward.
    Of each the forms take turns, and the fastest stays, the unfused one included.

    Args:
        network: it is not changed; the fused one is in evaluation mode and takes images of any size, as before.
        images: (B, channels, H, W); sizes and device to measure at.
        repeats: timed forwards of each form.
        tolerance: of the largest difference of any output, over the largest output.

    Returns:
        The fused network, and what became of each slot.

    Raises:
        BrokenRun: where the fused network computes something else.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        >>> fusion = fuse(network, torch.randn(1, 3, 8, 8))
        >>> fusion.folded, fusion.network.training
        (1, False)
    """
    fused = copy.deepcopy(network).eval()
    with _full_precision():
        expected = tree_leaves(fused(images))
    norms = _following_norms(fused, images)
    operators = {name: module for name, module in places(fused).items() if not isinstance(module, nn.Conv2d)}
    folded = 0
    for name, follower in norms.items():
        module = fused.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            _fold(module, fused.get_submodule(follower))
            put(fused, follower, nn.Identity())
            folded += 1
    packs = images.device.type == "cpu" and torch.backends.mkldnn.is_available()
    layout = _faster_layout(fused, images, repeats)
    fused.to(memory_format=layout)

    inside = tuple(f"{name}." for name in operators)  # where positions have a linear map, which becomes a constant
    linear = {
        name: module for name, module in fused.named_modules() if type(module) is nn.Linear and not name.startswith(inside)
    }
    inputs = _inputs(fused, images, [*operators, *linear])
    slots = []
    for name, operator in operators.items():
        if name not in inputs:
            continue  # it runs more than once, or never
        norm = norms.get(name)
        height, width = inputs[name].shape[-2:]
        forms = _forms(operator, fused.get_submodule(norm) if norm else None, (height, width))
        unfused = nn.Sequential(operator, fused.get_submodule(norm)) if norm else operator
        times = _least_times({UNFUSED: unfused, **forms}, inputs[name], repeats)
        best = min(times, key=lambda form: times[form])
        if best != UNFUSED:
            put(fused, name, forms[best].to(memory_format=layout))
            if norm:
                put(fused, norm, nn.Identity())
                folded += 1
        slots.append(FusedSlot(name.removesuffix(".operator"), str(operator.name), best, times))
    pointwise = 0
    for name, module in linear.items():
        if name in inputs:
            forms = {"linear": module, "convolution": PointwiseLinear(module)}
            if packs:
                forms["packed"] = PointwiseLinear(module, packed=True)
            times = _least_times(forms, inputs[name], repeats)
            best = min(times, key=lambda form: times[form])
            put(fused, name, forms[best])
            pointwise += best != "linear"

    if packs:
        _pack(fused, images, repeats)
    packed = sum(isinstance(module, PackedConv2d) for module in fused.modules())
    fused.requires_grad_(False)  # and packed weights serve a forward that forgets no_grad
    with _full_precision():
        pairs = list(zip(tree_leaves(fused(images)), expected, strict=True))
    # Where all outputs are zero, as of a last layer that begins at zero, any difference is too large.
    difference = max(
        ((got - right).abs().max() / right.abs().max().clamp(min=torch.finfo().tiny)).item() for got, right in pairs
    )
    if not difference <= tolerance:
        raise BrokenRun(f"the fused network differs by {difference:.1e} of the largest output; tolerance is {tolerance:.1e}")
    return Fusion(fused, slots, folded, pointwise, packed, layout == torch.channels_last)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Turn TF32 off inside the block.

    GPUs convolve in TF32 by default from Ampere on: its 10 bits would be most of a difference.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def _pack(fused: nn.Module, images: Tensor, repeats: int) -> None:
    """Pack the weights of every convolution that is faster so."""
    plain = {name: module for name, module in fused.named_modules() if type(module) is nn.Conv2d}
    for name, x in _inputs(fused, images, list(plain)).items():
        if PackedConv2d.takes(plain[name]):
            candidate = PackedConv2d.of(plain[name])
            times = _least_times({"plain": plain[name], "packed": candidate}, x, repeats)
            if times["packed"] < times["plain"]:
                put(fused, name, candidate)


class PackedConv2d(nn.Conv2d):
    """A convolution for inference that keeps its weight in the order that oneDNN wants, beside the weight itself.

    A plain one puts it in order in every forward. That takes as long as the convolution where maps are small and weights large
    (512 channels on 7×7, one image: 2.0 → 0.9 ms). Where a graph is made, gradients are wanted, or another type or device
    comes, it is a plain one. A copy packs anew, and so does one whose weight has changed.
    """

    _packed: Tensor | None
    _version: int

    @staticmethod
    def takes(conv: nn.Conv2d) -> bool:
        """Return whether this convolution has a packed form."""
        return conv.weight.dtype == torch.float32 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> PackedConv2d:
        """Return the same convolution, of the same weight."""
        packed = copy.copy(conv)
        packed.__class__ = cls
        assert isinstance(packed, cls)
        packed._packed, packed._version = None, -1
        return packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None, "_version": -1}

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        graph = torch.compiler.is_compiling() or torch.jit.is_tracing() or detect_fake_mode() is not None
        wanted = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        plain = input.device.type == "cpu" and input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if graph or wanted or not plain or self.weight.device.type != "cpu":
            return super().forward(input)
        geometry: Any = (self.padding, self.stride, self.dilation, self.groups)
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._packed is None or self._version != version:
            weight = self.weight.detach().contiguous()
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._packed = reorder(weight.to_mkldnn(), *geometry, list(input.shape))
            self._version = version
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(input, self._packed, self.bias, *geometry, "none", [], "")
        return out


class FusedOperator(nn.Module):
    """An operator for inference: Stage I, the attention, and the convolution path as one convolution.

    Args:
        form: "dense", "merged" or "factored"; see `fuse`. An operator without a convolution path has but one.
        scale: (C,) and shift: (C,), of the batch norm behind it.
        size: of the maps, for which the positions become constants.
    """

    def __init__(self, operator: Operator | ACmix, form: str, scale: Tensor, shift: Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        attention, convolution = operator.attention, operator.convolution
        alpha, beta = operator.mixing.strengths if isinstance(operator, ACmix) else (scale.new_ones(()),) * 2
        self.form = form
        self.projection = None if attention is None and form == "dense" else copy.deepcopy(operator.projection)
        self.attention = copy.deepcopy(attention)
        self.register_buffer("gain", None)
        self.register_buffer("border", None)
        self.register_buffer("fc", None)
        self.convolution: nn.Conv2d | None = None
        if self.attention is not None:
            self._fold_attention(alpha * scale, shift if convolution is None else None)
            self._freeze(size)
        if isinstance(convolution, ConvolutionPath):
            self._fold_convolution(operator, convolution, beta * scale, shift, size)

    gain: Tensor | None
    border: Tensor | None
    fc: Tensor | None

    def _fold_attention(self, gain: Tensor, shift: Tensor | None) -> None:
        """Fold the norm into the output projection, or the values where nothing else reads them. Else it stays a factor."""
        assert self.attention is not None
        if isinstance(self.attention, Output):
            conv, rows = self.attention.proj, slice(None)
        elif self.form in ("dense", "attention") and isinstance(self.projection, Projection):
            conv, rows = self.projection.qkv, slice(-len(gain), None)
        else:
            self.gain = gain[:, None, None]
            self.border = None if shift is None else shift[None, :, None, None]
            return
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        conv.weight[rows] *= gain[:, None, None, None]
        conv.bias[rows] *= gain
        if shift is not None and (isinstance(self.attention, Output) or self.attention.rows_sum_to_one):
            conv.bias[rows] += shift
        elif shift is not None:
            self.border = shift[None, :, None, None]

    def _freeze(self, size: tuple[int, int]) -> None:
        assert self.attention is not None
        for name, module in list(self.attention.named_modules()):
            if isinstance(module, LinearPosition):
                put(self.attention, name, ConstantPosition(module, size))

    def _fold_convolution(
        self, operator: Operator | ACmix, path: ConvolutionPath, scale: Tensor, shift: Tensor, size: tuple[int, int]
    ) -> None:
        self.geometry = (path.stride, path.kernel_size // 2 * path.dilation, path.dilation)
        self.maps, self.head_dim = path.maps, path.head_dim
        column = path.bias_kernel() if path.bias is not None else None  # what a map of ones would give
        if self.form == "dense":
            assert isinstance(operator.projection, Projection)
            qkv = operator.projection.qkv
            kernel = path.dense(qkv.weight.flatten(1))
            if qkv.bias is not None:
                passed = path.dense(qkv.bias[:, None])
                column = passed if column is None else column + passed
        elif self.form == "merged":
            kernel = path.merged()
        else:
            kernel, self.fc = path.kernels().clone(), path.fc.detach().clone()
        groups = 1 if self.form == "dense" else path.head_dim
        self.convolution = nn.Conv2d(
            groups * kernel.shape[1], kernel.shape[0], path.kernel_size, *self.geometry, groups, device="meta"
        )  # fmt: skip
        self.convolution.weight = nn.Parameter(kernel * scale[:, None, None, None])
        self.convolution.bias = nn.Parameter(shift.clone())
        self.register_buffer("column", None if column is None else column * scale[:, None, None, None])
        self.size = size
        if column is not None:
            self.border = self._border(size)

    column: Tensor | None

    def _border(self, size: tuple[int, int]) -> Tensor:
        """Return (1, C, Ho, Wo): what biases that pass through the zero padding add."""
        assert self.column is not None
        return F.conv2d(self.column.new_ones(1, 1, *size), self.column, None, *self.geometry)

    def _convolve(self, x: Tensor, maps: Tensor | None) -> Tensor:
        assert self.convolution is not None
        if maps is None or self.form == "dense":
            source = x
        else:
            maps = maps.unflatten(1, (self.maps, self.head_dim))  # (B, 3N, D, H, W)
            light = maps.transpose(1, 2) if self.fc is None else torch.einsum("bmdhw,tm->bdthw", maps, self.fc)
            source = light.flatten(1, 2)
        out: Tensor = self.convolution(source)
        return out

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = x if self.attention is None else self.attention.roll(x)
        maps = None if self.projection is None else self.projection(x)
        out = None if self.convolution is None else self._convolve(x, maps)
        if self.attention is not None:
            attended = self.attention(maps)
            if out is None:
                out = attended if self.gain is None else attended * self.gain
            else:
                out = out + attended if self.gain is None else torch.addcmul(out, attended, self.gain)
        assert out is not None
        if self.border is not None:
            same = self.convolution is None or (height, width) == self.size
            out = out + (self.border if same else self._border((height, width)))
        return out if self.attention is None else self.attention.roll(out, back=True)


class ConstantPosition(LinearPosition):
    """The encoding of the coordinates of maps of one size, computed once; other sizes are computed as before."""

    def __init__(self, position: LinearPosition, size: tuple[int, int]) -> None:
        nn.Module.__init__(self)
        self.linear, self.size = position.linear, size
        self.register_buffer("encoding", position(*size))

    encoding: Tensor

    def forward(self, height: int, width: int) -> Tensor:
        """Return (H, W, D)."""
        return self.encoding if (height, width) == self.size else super().forward(height, width)


class PointwiseLinear(nn.Module):
    """A linear layer as a 1×1 convolution in channels_last, which oneDNN runs faster than MKL its product, at most sizes."""

    def __init__(self, linear: nn.Linear, packed: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None, device="meta")
        conv.weight, conv.bias = nn.Parameter(linear.weight.detach()[:, :, None, None]), linear.bias
        self.conv = PackedConv2d.of(conv) if packed else conv

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, rows, 1), channels_last
        out: Tensor = self.conv(rows)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def _forms(operator: Any, norm: nn.Module | None, size: tuple[int, int]) -> dict[str, nn.Module]:
    """Return every form that an operator has."""
    attention, convolution = operator.attention, operator.convolution
    path = attention or convolution
    assert path is not None
    parameter = next(operator.parameters())
    scale, shift = parameter.new_ones(path.channels), parameter.new_zeros(path.channels)
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    names = ["attention"] if convolution is None else ["factored", "merged"]
    if convolution is not None and isinstance(operator.projection, Projection):
        names.append("dense")
    return {name: FusedOperator(operator, name, scale, shift, size).eval() for name in names}


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Fold a batch norm into the convolution in front of it."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _following_norms(network: nn.Module, images: Tensor) -> dict[str, str]:
    """Return convolution or operator → the batch norm that alone reads its output, as a forward shows.

    The graph of a backward knows who reads what, whatever Python did on the way.
    """
    operators = [f"{name}." for name, module in places(network).items() if not isinstance(module, nn.Conv2d)]
    made: dict[Any, list[str]] = {}
    read: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    hooks = []
    for name, module in network.named_modules():
        if any(name.startswith(operator) for operator in operators):
            continue

        def after(_module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            calls[name] += 1
            if type(_module) is nn.BatchNorm2d:
                read[name] = inputs[0].grad_fn
            else:
                made.setdefault(output.grad_fn, []).append(name)

        folds = type(module) is nn.BatchNorm2d and module.running_mean is not None  # else it depends on its batch
        if isinstance(module, nn.Conv2d | Operator | ACmix) or folds:
            hooks.append(module.register_forward_hook(after))
    with torch.enable_grad():
        out = network(images[:1].detach().requires_grad_())
    for hook in hooks:
        hook.remove()
    waiting = [leaf.grad_fn for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    readers: Counter[Any] = Counter(waiting)  # what is an output is read by the caller
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            readers[following] += 1
            waiting.append(following)
    return {
        made[node][0]: norm
        for norm, node in read.items()
        if node in made and readers[node] == 1 and len(made[node]) == 1 and calls[made[node][0]] == calls[norm] == 1
    }


def _inputs(network: nn.Module, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Return the inputs of these modules in a forward. Modules that run more than once are left out."""
    found: dict[str, list[Tensor]] = {}
    hooks = []
    for name in names:

        def before(_module: nn.Module, inputs: Any, name: str = name) -> None:
            found.setdefault(name, []).append(inputs[0].clone())

        hooks.append(network.get_submodule(name).register_forward_pre_hook(before))
    network(images)
    for hook in hooks:
        hook.remove()
    return {name: inputs[0] for name, inputs in found.items() if len(inputs) == 1}


def _least_times(modules: Mapping[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
    """Return the least milliseconds of each, run in turn. Whatever else the machine does only adds to them.

    By the medians, 3 of 60 ResNets got the other memory layout than the rest on a busy machine, and were 9 to 16 % slower.
    """
    times = interleaved([partial(module, x) for module in modules.values()], x.device, repeats, discard=2)
    return dict(zip(modules, times.min(axis=1).tolist(), strict=True))


def _faster_layout(network: nn.Module, images: Tensor, repeats: int) -> torch.memory_format:
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    times = _least_times({"contiguous": network, "channels_last": other}, images, 3 * repeats)  # all of the network is at stake
    return torch.channels_last if times["channels_last"] < times["contiguous"] else torch.contiguous_format
