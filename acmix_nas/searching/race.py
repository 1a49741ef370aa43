"""The race of the finalists: each is trained by itself, from half-time on only the best, and one is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from acmix_nas.architecture import Architecture
from acmix_nas.searching.config import SearchConfig
from acmix_nas.searching.supernets import describe
from acmix_nas.strategies.base import Supernet
from acmix_nas.training.loop import Fitted
from acmix_nas.training.retrain import train_architecture
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document, save_tensors, write_document

__all__ = ["race", "train_finalist"]

HALF_TIME = "half-time.json"
INHERITED = "inherited.pt"


def race(
    config: SearchConfig,
    supernet: Supernet,
    choices: Sequence[Mapping[str, str]],
    folder: Path,
    backbone: nn.Module | None = None,
) -> tuple[int, Fitted]:
    """Train each of the finalists, from half-time on only the best of them (successive halving, Jamieson and Talwalkar 2016).

    They begin with what they inherit of the supernet's weights, where the config says so, or from scratch. It may be
    interrupted at any time; the same call resumes it.

    Args:
        backbone: the user's module, where the search runs on one.

    Returns:
        The index of the best by the validation part, and what its training reached.

    Raises:
        UserError: where the race was begun with other finalists.
    """

    def train(i: int, until: int | None = None) -> Fitted:
        return train_finalist(config, supernet, choices[i], folder / str(i + 1), backbone, until)

    running = list(range(len(choices)))
    if config.half_time:
        scores = [train(i, config.half_time).validation for i in running]
        running = sorted(running, key=lambda i: -scores[i])[: config.race_cut]
    finals = {i: train(i) for i in sorted(running)}
    best = max(finals, key=lambda i: finals[i].validation)
    return best, finals[best]


def train_finalist(
    config: SearchConfig, supernet: Supernet, choice: Mapping[str, str], folder: Path,
    backbone: nn.Module | None = None, until: int | None = None,
) -> Fitted:  # fmt: skip
    """Train a finalist, once; with `until`, up to half-time, and return what it had then."""
    half_time, inherited, begun_with = folder / HALF_TIME, folder / INHERITED, folder / "architecture.json"
    if begun_with.exists() and dict(Architecture.load(begun_with).slots) != dict(choice):
        raise UserError(f"finalist {str(folder)!r} is another than when the race began; take another folder for the search")
    if until is not None and half_time.exists():
        return Fitted.read(read_document(half_time, "result"))
    if (folder / "result.json").exists():
        return Fitted.read(read_document(folder / "result.json", "result"))
    if config.warm and not (folder / "checkpoints" / "last.ckpt").exists():
        save_tensors(inherited, supernet.space.inherit(choice).state_dict())
    found = train_architecture(
        describe(config, supernet, choice), supernet.data, config.race_recipe, folder, task=supernet.task,
        weights=inherited if config.warm else None, backbone=backbone, progress=supernet.progress, resume=True, until=until,
    )  # fmt: skip
    if until is not None:
        write_document(half_time, "result", found.content)
    return found
