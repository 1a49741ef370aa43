"""Commands on the way to a device: costs side by side, ONNX, whether latencies add up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from acmix_nas.cli.shared import Device, Fused, ImageSize, Output, Saved, Weights, folder_for, name_of, out, size_for

if TYPE_CHECKING:
    from rich.table import Table

    from acmix_nas.deploy.fusion import Fusion


def profile(
    architecture: Saved,
    /,
    *architectures: Saved,
    image_size: ImageSize = None,
    batch_size: int = 8,
    device: Device = None,
    fused: Fused = False,
    output: Output = None,
) -> None:
    """Count parameters and multiply-adds, and measure latency and memory, of networks side by side.

    Args:
        batch_size: the batch that is timed beside single images.
    """
    import torch

    from acmix_nas.architecture import build
    from acmix_nas.deploy import profile as profiling
    from acmix_nas.deploy.fusion import fuse
    from acmix_nas.training.retrain import open_saved, sized
    from acmix_nas.util.files import unused
    from acmix_nas.util.timing import device_of

    paths = [architecture, *architectures]
    found = {name_of(path, paths): open_saved(path)[0] for path in paths}
    size = size_for(found.values(), image_size)
    found = {name: sized(one, size[-1]) for name, one in found.items()}
    networks = {name: build(one) for name, one in found.items()}
    counts = {name: profiling.count(one, size) for name, one in found.items()}
    folder = folder_for(output, "profile")
    unused(*profiling.files(folder))
    if fused:
        images = torch.randn(batch_size, *size, device=device_of(device))
        networks |= {f"{name}, fused": fuse(network.to(images.device), images).network for name, network in networks.items()}
    profiles = profiling.profile(networks, size, batch_size, device=device, counts=counts)
    out.print(profiling.table(profiles))
    profiling.report(profiles, folder)
    out.print(f"written to {folder}")


def export_onnx(
    architecture: Saved,
    file: Path,
    /,
    *,
    weights: Weights = None,
    image_size: ImageSize = None,
    fused: Fused = False,
) -> None:
    """Write a network as ONNX, and check it against PyTorch with onnxruntime.

    Args:
        file: the .onnx file to write.
    """
    import torch

    from acmix_nas.architecture import build
    from acmix_nas.deploy.export import export_onnx as run_export
    from acmix_nas.deploy.fusion import fuse
    from acmix_nas.training.retrain import open_saved, sized

    found, checkpoint, _ = open_saved(architecture, weights)
    size = size_for([found], image_size)
    network = build(sized(found, size[-1]), weights=checkpoint)
    if fused:
        fusion = fuse(network, torch.randn(1, *size))
        out.print(fusion_table(fusion))
        network = fusion.network
    difference = run_export(network, file, size)
    out.print(f"{file}: differs from PyTorch by {difference:.1e} of the output's scale")


def latency(space: str, /, *, number: int = 30, device: Device = None, output: Output = None) -> None:
    """Check whether latencies add up: every operator measured alone, beside random whole networks in their fused form.

    Args:
        space: cued, cued-shapes, or the folder of a search, whose space is taken.
        number: random whole networks to measure.
    """
    from acmix_nas.research.benchmark import space_of
    from acmix_nas.research.benchmark.additive import additive

    chosen, folder = space_of(space), folder_for(output, "latency")
    found, screen = additive(chosen, folder, number, device)
    out.print(screen)
    out.print(f"Spearman {found.spearman:.3f}, error {found.error:.1%} (worst {found.worst:.1%})\nwritten to {folder}")


def fusion_table(fusion: Fusion) -> Table:
    """Return a table of the slots: what was chosen, and milliseconds of what was tried."""
    from rich.table import Table

    table = Table("slot", "operator", "form", "ms")
    for slot in fusion.slots:
        tried = ", ".join(f"{form} {time:.2f}" for form, time in slot.milliseconds.items())
        table.add_row(slot.slot, slot.operator, slot.form, tried)
    layout = "in channels_last" if fusion.channels_last else "as they were"
    table.caption = (
        f"{fusion.folded} batch norms folded, {fusion.linear} linear layers as convolutions, "
        f"{fusion.packed} convolutions with packed weights, weights {layout}"
    )
    return table
