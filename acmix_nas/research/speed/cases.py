"""What is compared with what, at which sizes, and what each ratio should reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["COMPARISONS", "DEFAULT", "FAULT_FREE", "MEMORY", "WHAT", "Bound", "Comparison", "Point", "Ratio", "Spec"]

FAULT_FREE = "fault-free"
DEFAULT = "default"
MEMORY = "memory"
"""What is measured: time where the allocator keeps what is freed, time with the allocator as it is, and peak memory."""

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
"""(C, side) of the stages of a ResNet on images of 224×224."""
BATCH = 4
CANDIDATES = ("conv", "local", "window", "global", "acmix_local", "acmix_window", "acmix_global")
NETWORKS = ("resnet26_acmix", "swin_tiny_acmix", "pvt_tiny_acmix")


class Bound(NamedTuple):
    """What a ratio should reach."""

    limit: float
    at_least: bool

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def at_least(limit: float) -> Bound:
    return Bound(limit, True)


def at_most(limit: float) -> Bound:
    return Bound(limit, False)


@dataclass(frozen=True)
class Spec:
    """A subject that a process of its own can build; see `acmix_nas.research.speed.subjects`.

    Attributes:
        kind: a name in `subjects.KINDS`.
        arguments: of that kind.
        batch: images of one call.
        train: forward and backward, or else forward in evaluation mode.
        small: arguments of a small subject of this kind, whose run loads what the libraries load once.
    """

    kind: str
    arguments: Mapping[str, Any]
    batch: int
    train: bool = True
    small: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """One subject over another, per image.

    Attributes:
        over, under: the subjects; of several under the line, the slowest.
        bounds: measure (`FAULT_FREE`, `DEFAULT`, `MEMORY`) → what the ratio should reach, or None where it is only told.
        worst: the smallest ratio of all points in place of their geometric mean.
    """

    over: str
    under: tuple[str, ...]
    bounds: Mapping[str, Bound | None]
    worst: bool = False

    def __str__(self) -> str:
        under = self.under[0] if len(self.under) == 1 else f"slowest of {len(self.under)}"
        return f"{self.over} / {under}{' at its worst point' if self.worst else ''}"


@dataclass(frozen=True)
class Point:
    """A size, and the subjects that take turns there."""

    label: str
    subjects: Mapping[str, Spec]


@dataclass(frozen=True)
class Comparison:
    """The same subjects at several points, and the ratios that matter."""

    title: str
    points: Sequence[Point]
    ratios: Sequence[Ratio]

    @property
    def measures(self) -> list[str]:
        """Return the measures that its ratios need."""
        return [measure for measure in (FAULT_FREE, DEFAULT, MEMORY) if any(measure in ratio.bounds for ratio in self.ratios)]

    @property
    def weighed(self) -> list[str]:
        """Return the subjects whose memory its ratios need."""
        names = [name for ratio in self.ratios if MEMORY in ratio.bounds for name in (ratio.over, *ratio.under)]
        return list(dict.fromkeys(names))


Shapes = Sequence[tuple[int, int]]
SMALL = {"channels": 16, "side": 8}


def operators(shapes: Shapes = SHAPES, batches: tuple[int, int] = (BATCH, 32)) -> list[Comparison]:
    """Compare operators, K = 7, N = 4."""
    batch, large = batches

    def at_shapes(kinds: Mapping[str, str], train: bool = True, **arguments: Any) -> list[Point]:
        """Return a point with the kinds (subject → kind) at every shape."""
        return [
            Point(
                f"{channels} × {side}×{side}",
                {
                    name: Spec(kind, {"channels": channels, "side": side, **arguments}, batch, train, SMALL)
                    for name, kind in kinds.items()
                },
            )
            for channels, side in shapes
        ]

    channels, side = shapes[0]
    by_batch = {
        f"batch {number}": Spec("acmix", {"channels": channels, "side": side}, number, small=SMALL) for number in batches
    }  # fmt: skip
    plain = {"naive": "naive_acmix", "ours": "acmix"}
    return [
        Comparison(
            "ACmix on local attention, forward and backward",
            at_shapes({**plain, "conv3×3": "conv3x3"}),
            [
                Ratio("naive", ("ours",), {FAULT_FREE: at_least(4), DEFAULT: at_least(10)}),
                Ratio("ours", ("conv3×3",), {FAULT_FREE: at_most(2.5)}),
                Ratio("ours", ("naive",), {MEMORY: at_most(1 / 5)}),
            ],
        ),
        Comparison(
            "ACmix on local attention by batch, time per image, forward and backward",
            [Point(f"{channels} × {side}×{side}", by_batch)],
            [Ratio(f"batch {large}", (f"batch {batch}",), {FAULT_FREE: at_most(1.1)})],
        ),
        Comparison(
            "ACmix on local attention, stride 2, forward and backward",
            at_shapes({**plain, "conv3×3": "conv3x3"}, stride=2),
            [
                Ratio("ours", ("conv3×3",), {FAULT_FREE: at_most(4)}),
                Ratio("naive", ("ours",), {FAULT_FREE: None, DEFAULT: None}),
            ],
        ),
        Comparison(
            "Patchwise attention, forward and backward",
            at_shapes({"naive": "naive_patchwise", "ours": "patchwise"}),
            [
                Ratio("naive", ("ours",), {FAULT_FREE: at_least(2), DEFAULT: None}),
                Ratio("naive", ("ours",), {FAULT_FREE: at_least(1)}, worst=True),
            ],
        ),
        Comparison(
            "ACmix on local attention, forward in evaluation mode",
            at_shapes(plain, train=False),
            [Ratio("naive", ("ours",), {FAULT_FREE: at_least(5), DEFAULT: None})],
        ),
    ]


def supernet(shapes: Shapes = SHAPES, batch: int = BATCH) -> list[Comparison]:
    """Compare a slot under a softmax of its candidates. "share all" is what a search uses, "share none" is NNI's stock way."""
    kinds: dict[str, tuple[str, dict[str, str]]] = {
        f"share {share}": ("candidates", {"share": share}) for share in ("all", "attention", "none")
    }  # fmt: skip
    kinds |= {operator: ("candidate", {"operator": operator}) for operator in CANDIDATES}
    points = []
    for channels, side in shapes:
        size = {"channels": channels, "side": side}
        subjects = {name: Spec(kind, {**size, **extra}, batch) for name, (kind, extra) in kinds.items()}
        points.append(Point(f"{channels} × {side}×{side}", subjects))
    return [
        Comparison(
            f"A slot of {len(CANDIDATES)} candidates, forward and backward",
            points,
            [
                Ratio("share none", ("share all",), {FAULT_FREE: at_least(3.2)}),
                Ratio("share none", ("share attention",), {FAULT_FREE: None}),
                Ratio("share all", CANDIDATES, {FAULT_FREE: at_most(1.35)}),
            ],
        )
    ]


def search(side: int = 64, batch: int = 8, channels: Sequence[int] = (64, 128, 256, 512)) -> list[Comparison]:
    """Compare the architecture's half and the weights' half of a step, without the optimizers."""
    forms = {"share all": ("all", False), "share none": ("none", False), "NNI's loop, share none": ("none", True)}
    subjects = {
        name: Spec(
            "darts_step", {"share": share, "stock": stock, "side": side, "channels": list(channels)}, batch,
            small={"side": 32, "channels": [8, 8, 8, 8]},
        )
        for name, (share, stock) in forms.items()
    }  # fmt: skip
    bounds: dict[str, Bound | None] = {FAULT_FREE: at_least(3), MEMORY: at_least(3)}
    return [
        Comparison(
            f"A step of DARTS on ResNet-26, {len(CANDIDATES)} candidates, forward and backward of both halves",
            [Point(f"{batch} × 3 × {side}×{side}", subjects)],
            [
                Ratio("NNI's loop, share none", ("share all",), bounds),
                Ratio("share none", ("share all",), {FAULT_FREE: None, MEMORY: None}),
            ],
        )
    ]


def deploy(
    networks: Sequence[str] = NETWORKS, side: int = 224, batches: Sequence[int] = (1, 8), **arguments: Any
) -> list[Comparison]:
    """Compare `acmix_nas.deploy.fusion` with the network as it was trained. `arguments` are of timm's networks."""
    points = []
    for name in networks:
        for batch in batches:
            of = {"name": name, "side": side, **arguments}
            pair = {"unfused": False, "fused": True}
            subjects = {label: Spec("network", {**of, "fused": fused}, batch, False) for label, fused in pair.items()}
            points.append(Point(f"{name}, {batch} × 3 × {side}×{side}", subjects))
    return [
        Comparison(
            "Fused networks, forward in evaluation mode",
            points,
            [Ratio("unfused", ("fused",), {FAULT_FREE: at_least(1.4)})],
        )
    ]


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {
    "operators": operators, "supernet": supernet, "search": search, "deploy": deploy,
}  # fmt: skip
WHAT = tuple(COMPARISONS)
