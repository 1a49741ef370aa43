"""The paper's tables beside what is counted and measured here. Nothing here needs NNI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from acmix_nas.architecture import Architecture
from acmix_nas.costs.counted import module_counts
from acmix_nas.costs.survey import survey
from acmix_nas.deploy.profile import count
from acmix_nas.nnictl.results import TrialResult, read_results
from acmix_nas.operators import ACmix, GlobalPath, Operator, Output, PatchwisePath, strided
from acmix_nas.slots.backbones import open_backbone
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import read_document
from acmix_nas.util.terminal import mean_and_deviation

__all__ = ["TABLES", "figures", "tables", "theory"]

INPUT = (3, 224, 224)
SWIN = {"swin_tiny": "swin_tiny_patch4_window7_224", "swin_small": "swin_small_patch4_window7_224"}
# Network of the paper's Tables 1 and 8 → module of the table → network whose slots are that module.
STAGED: dict[str, dict[str, str]] = {
    "resnet50": {"conv": "resnet50_conv", "attention": "resnet50_sasa", "acmix": "resnet50_acmix"},
    "san19": {"attention": "san19_patchwise", "acmix": "san19_acmix"},
    "swin_tiny": {"attention": SWIN["swin_tiny"], "acmix": "swin_tiny_acmix"},
}
# Table 1, per pixel: C channels, k_c kernel of convolution, k_a window of attention, N heads.
FORMULAS = {
    "conv": ("k_c²C²", "k_c²C"),
    "attention": ("3C²", "2k_a²C"),
    "acmix": ("3C²", "(k_c²+2k_a²)C+(3k_c²+k_c⁴)C"),
}


def figures() -> Any:
    """Read the paper's numbers, as the package ships them in paper.json."""
    return json.loads(files("acmix_nas.research").joinpath("paper.json").read_text())


class Staged(NamedTuple):
    """Stage I and II of something, summed over the slots of a network."""

    stage1: float
    stage2: float

    def __str__(self) -> str:
        total = self.stage1 + self.stage2
        return " + ".join(f"{part:.2f} ({part / total:.0%})" for part in self)


def theory(module: nn.Module, height: int, width: int) -> Staged:
    """Compute MACs of one module by the formulas of Table 1, on an input map of this size.

    The paper's practical figures come out where a convolution and the shifts count on the output map. The projections, fc and
    the attention then count on the input map, which a stride makes four times as large. Patchwise attention, which Table 1 has
    no formula for, counts by equation 18. Swin's output projection counts as Stage II, where Table 8 has it.
    """
    if isinstance(module, nn.Conv2d):
        area = strided(height, module.stride[0]) * strided(width, module.stride[1])
        taps = module.kernel_size[0] * module.kernel_size[1]
        return Staged(float(taps * module.in_channels * module.out_channels * area), float(taps * module.out_channels * area))
    assert isinstance(module, Operator | ACmix)
    path = module.path if isinstance(module, Operator) else module.attention
    assert path is not None
    inner = path.path if isinstance(path, Output) else path
    channels, area = path.channels, height * width
    if isinstance(inner, PatchwisePath):
        stage2 = inner.macs(height, width)
    else:
        keys = area / inner.reduction**2 if isinstance(inner, GlobalPath) else int(getattr(inner, "window", 0)) ** 2
        stage2 = 2.0 * keys * channels * area
    if isinstance(path, Output):
        stage2 += float(channels**2 * area)
    if isinstance(module, ACmix) and module.convolution is not None:
        conv, out = module.convolution, strided(height, path.stride) * strided(width, path.stride)
        taps = conv.kernel_size**2
        stage2 += float(conv.maps * taps * conv.head_dim * area + (taps + taps**2) * channels * out)
    return Staged(module.projection.macs(height, width), stage2)


def executed(module: nn.Module, height: int, width: int) -> Staged:
    """Count the MACs that PyTorch's counter sees in a forward of the forms that run here.

    Local attention has tiles with margins, and fc and shift are merged.
    """
    module = module.to("meta").eval()
    stage1 = module if isinstance(module, nn.Conv2d) else module.get_submodule("projection")
    channels = next(conv.in_channels for conv in stage1.modules() if isinstance(conv, nn.Conv2d))
    numbers = []
    for part in (stage1, module):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            part(torch.empty(1, channels, height, width, device="meta"))
        numbers.append(counter.get_total_flops() / 2)
    return Staged(numbers[0], numbers[1] - numbers[0])


def counted(module: nn.Module, height: int, width: int) -> Staged:
    """Count MACs of one module as this package does."""
    cost = module_counts(module, height, width)
    return Staged(cost.stage1, cost.stage2)


def parameters(module: nn.Module, _height: int, _width: int) -> Staged:
    """Count parameters of one module: those of Stage I, and the others."""
    total = sum(parameter.numel() for parameter in module.parameters())
    stage1 = module if isinstance(module, nn.Conv2d) else module.get_submodule("projection")
    first = sum(parameter.numel() for parameter in stage1.parameters())
    return Staged(float(first), float(total - first))


def summed(network: str, measure: Callable[[nn.Module, int, int], Staged], unit: float) -> Staged:
    """Sum a measure over the operators of a network, at 224×224."""
    parts = [measure(module, *size) for module, size in operators_of(network)]
    return Staged(*(sum(column) / unit for column in zip(*parts, strict=True)))


def operators_of(network: str) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
    """Yield the operators of a network, and the size of their input maps at 224×224."""
    model, slots = open_backbone(network)
    sizes = survey(model, slots, INPUT).sizes
    return ((model.get_submodule(slot.name), sizes[slot.name]) for slot in slots)


def table1() -> Table:
    """Show Table 1: formulas, and ResNet-50."""
    shown = Table("module", "stage", "formula × HW", "paper", "by formula", "counted", "executed", "parameters: paper", "here")
    paper = figures()
    for module, network in STAGED["resnet50"].items():
        columns = [summed(network, measure, 1e9) for measure in (theory, counted, executed)]
        here = summed(network, parameters, 1e6)
        said, weights = paper["stage_cost_gmacs"]["resnet50"][module], paper["stage_parameters_m"]["resnet50"][module]
        for stage in range(2):
            shown.add_row(
                module, "I" * (stage + 1), FORMULAS[module][stage], f"{said[stage]:.2f} G",
                *(f"{column[stage]:.3f} G" for column in columns), f"{weights[stage]:.1f} M", f"{here[stage]:.2f} M",
            )  # fmt: skip
    shown.title = "Table 1: MACs and parameters of the 3×3 slots of ResNet-50 at 224×224"
    return shown


def table8() -> Table:
    """Show Table 8: three networks."""
    shown = Table("network", "module", "paper [GMACs, I + II]", "by formula", "counted", "executed")
    paper = figures()["stage_cost_gmacs"]
    for family, networks in STAGED.items():
        for module, network in networks.items():
            # PyTorch's counter does not see the element-wise products of patchwise attention.
            seen = "–" if family == "san19" else str(summed(network, executed, 1e9))
            columns = [summed(network, measure, 1e9) for measure in (theory, counted)]
            shown.add_row(family, module, str(Staged(*paper[family][module])), *map(str, columns), seen)
    shown.title = "Table 8: MACs of Stage I + Stage II at 224×224"
    return shown


def models() -> Table:
    """Show the model table: exact counts beside the paper's, and the baselines without a figure of the paper's."""
    shown = Table("network", "parameters", "paper", "difference", "GMACs", "paper", "difference", "top-1 (ImageNet, paper)")
    for name, said in figures()["models"].items():
        for network in (*baselines(name), name):
            ours = count(Architecture(network, {}, ()), INPUT)
            cells = [network, f"{ours.parameters:,}", "–", "–", f"{ours.macs / 1e9:.3f}", "–", "–", f"{said['baseline_top1']}"]
            if network == name:
                cells[2:4] = f"{said['params_m']} M", f"{ours.parameters / 1e6 / said['params_m'] - 1:+.1%}"
                cells[5:8] = f"{said['macs_g']} G", f"{ours.macs / 1e9 / said['macs_g'] - 1:+.1%}", f"{said['top1']}"
            elif network.endswith("_conv"):
                cells[7] = "–"  # the paper's baseline of its ResNets is SASA
            shown.add_row(*cells)
    shown.title = "Networks at 224×224; the accuracies are the paper's own, and nobody has reproduced them here"
    return shown


def baselines(network: str) -> list[str]:
    """Return the networks of the same shape that the paper compares with."""
    plain = network.removesuffix("_acmix")
    family = re.match("[a-z]+", plain)
    assert family is not None
    named = {"resnet": [f"{plain}_conv", f"{plain}_sasa"], "san": [f"{plain}_patchwise"], "pvt": [plain]}
    return named.get(family[0]) or [SWIN[plain]]


def ablation(title: str, parameter: str, experiment: Path | None) -> Table:
    """Show Table 6 or 7: the paper's accuracies on ImageNet, and those of an experiment, where one was run."""
    paper = figures()["ablation_swin_t_top1"][parameter]
    by_setting = grouped(read_results(experiment), parameter) if experiment else {}
    if experiment and not by_setting:
        raise UserError(f"experiment {str(experiment)!r} has no parameter {parameter!r}; give one of {title.split(':')[0]}")
    shown = Table(parameter, "paper: Swin-T on ImageNet, top-1", "here: test accuracy", "seeds", "seconds of training")
    for setting, said in paper.items():
        top1, *speed = said if isinstance(said, list) else [said]
        cells = [setting, f"{top1}" + (f" at {speed[0]} images/s" if speed else "")]
        found = [read_document(result.folder / "result.json", "result") for result in by_setting.get(setting, [])]
        if found:
            cells += [mean_and_deviation([100 * result["test_accuracy"] for result in found], " %"), str(len(found))]
            cells.append(mean_and_deviation([result["seconds"] for result in found]))
        shown.add_row(*cells)
    shown.title = title
    return shown


def grouped(results: Sequence[TrialResult], parameter: str) -> dict[str, list[TrialResult]]:
    """Group the results by the value of a parameter."""
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        if parameter in result.parameters:
            groups.setdefault(str(result.parameters[parameter]), []).append(result)
    return groups


TABLES: Mapping[str, Callable[[Path | None], Table]] = {
    "table1": lambda _: table1(),
    "table6": lambda experiment: ablation("Table 6: how the two paths are combined", "mixing", experiment),
    "table7": lambda experiment: ablation("Table 7: how the convolution path shifts", "shifts", experiment),
    "table8": lambda _: table8(),
    "models": lambda _: models(),
}


def tables(name: str, experiment: Path | None = None) -> Table:
    """Show one of the paper's tables.

    Args:
        experiment: folder of the experiment whose results stand beside the paper's, of Tables 6 and 7.

    Raises:
        UserError: for an unknown table, or an experiment of another table.
    """
    if name not in TABLES:
        raise one_of("table", name, [*TABLES, "fig5"])
    return TABLES[name](experiment)
