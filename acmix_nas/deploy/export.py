"""A network out of Python: ONNX and torch.export, both checked against PyTorch. Nothing here needs NNI."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from acmix_nas.deploy.profile import full_size
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, unused
from acmix_nas.util.terminal import BrokenRun

__all__ = ["ParityError", "export_onnx", "export_program"]


class ParityError(BrokenRun):
    """What was exported computes something else than the network."""


def export_onnx(
    network: nn.Module, path: str | Path, input_size: int | Sequence[int], *,
    batch: int | None = None, opset: int = 18, tolerance: float = 1e-4,
) -> float:  # fmt: skip
    """Write a network as one self-contained .onnx file, in evaluation mode, and compare it with PyTorch.

    The file takes `images` (B, channels, height, width) and gives `logits`. It says in its metadata which command made it.

    Args:
        network: from images to one tensor; it is not changed.
        path: a file that does not exist yet; it appears only once it agrees with PyTorch.
        input_size: (channels, height, width) of an image, or the side of a square one; the file takes no
            other.
        batch: B; None for any, or for 1 with a warning where the network cannot be exported for any.
        opset: of ONNX. 18 is what torch's exporter is written in, and onnxruntime reads since 1.14.
        tolerance: of the largest difference.

    Returns:
        The largest absolute difference from PyTorch on random images, over the largest absolute output.

    Raises:
        UserError: where the file exists, `batch` is not positive, or onnx, onnxruntime or onnxscript is missing.
        ParityError: where the difference is above the tolerance.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> export_onnx(network, "network.onnx", 32) < 1e-4
        True
    """
    try:
        import onnx  # noqa: F401  the exporter needs it, and so does onnxscript
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export to ONNX needs {error.name}, which is not installed; pip install 'acmix-nas[onnx]'") from None
    with _new_file(Path(path)) as temporary:
        network, program, batches = _trace(network, full_size(input_size, network), batch)
        exported = torch.onnx.export(
            program, (), dynamo=True, input_names=["images"], output_names=["logits"], opset_version=opset, verbose=False,
            dynamic_shapes=({0: "batch"},) if len(batches) > 1 else None,  # only names what the program has
        )  # fmt: skip
        assert exported is not None
        model = exported.model
        for node in model.graph:
            for key in [key for key in node.metadata_props if key.startswith("pkg.torch")]:
                del node.metadata_props[key]  # the exporter's notes on its own work, a quarter of a small file
        model.metadata_props.update({key: _text(value) for key, value in provenance().items()})
        exported.save(temporary, external_data=False)

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(temporary, options, providers=["CPUExecutionProvider"])
        return _check_parity(
            network, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
            full_size(input_size, network), batches, tolerance,
        )  # fmt: skip


def export_program(
    network: nn.Module, path: str | Path, input_size: int | Sequence[int], *, batch: int | None = None, tolerance: float = 1e-4
) -> float:  # fmt: skip
    """Write a network as a .pt2 file, which `torch.export.load(path).module()` runs without this package.

    `provenance.json` inside it says which command made it. Arguments, result and errors are those of `export_onnx`.
    """
    with _new_file(Path(path)) as temporary:
        network, program, batches = _trace(network, full_size(input_size, network), batch)
        torch.export.save(program, temporary, extra_files={"provenance.json": _text(provenance())})
        return _check_parity(network, torch.export.load(temporary).module(), full_size(input_size, network), batches, tolerance)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name with the same suffix. Rename it to `path` at the end, and remove it where something fails."""
    unused(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _trace(
    network: nn.Module, input_size: Sequence[int], batch: int | None
) -> tuple[nn.Module, ExportedProgram, Sequence[int]]:
    """Return a copy of the network on the CPU in evaluation mode, its program, and the batch sizes to check it at."""
    if batch is not None and batch < 1:
        raise UserError(f"batch must be positive, or None for any; got {batch}")
    network = copy.deepcopy(network).cpu().eval()
    if batch is None:
        try:
            # Traced at 2: torch.export takes a dimension of 1 for a constant.
            shapes = ({0: Dim("batch", min=1)},)
            program = torch.export.export(network, (torch.randn(2, *input_size),), dynamic_shapes=shapes)
            batches: tuple[int, ...] = (1, 2, 3)
        except Exception as error:  # torch.export has no error of its own for what it cannot generalise
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"the network cannot be exported for any batch size, so it is for 1: {reason}", stacklevel=3)
            batch = 1
    if batch is not None:
        program = torch.export.export(network, (torch.randn(batch, *input_size),))
        batches = (batch,)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # the paths of the machine
    return network, program, batches


def _check_parity(
    network: nn.Module, exported: Callable[[Tensor], Tensor], input_size: Sequence[int], batches: Sequence[int],
    tolerance: float,
) -> float:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in batches:
        images = torch.randn(batch, *input_size, generator=generator)
        with torch.no_grad():
            expected, got = network(images), exported(images)
        difference = ((got - expected).abs().max() / (expected.abs().max() or 1.0)).item()
        if not difference <= tolerance:  # not a number is no agreement
            raise ParityError(
                f"the exported network differs from PyTorch by {difference:.1e} of the largest output at batch {batch}; "
                f"tolerance is {tolerance:.1e}"
            )
        largest = max(largest, difference)
    return largest


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
