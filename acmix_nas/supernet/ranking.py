"""What a trained supernet's weights are worth in the architectures that inherit them. Nothing here needs NNI."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import put
from acmix_nas.supernet.candidates import Candidates
from acmix_nas.training.data import Data
from acmix_nas.training.loop import evaluation_device, seed_all
from acmix_nas.training.task import Classification, Task

__all__ = ["Judge", "Ranker"]

CALIBRATION = 640
"""Images that statistics are computed from, or as many as have so many pixels: they are in one batch."""
PIXELS = CALIBRATION * 64**2
MEMORY = 2 * 2**30


class Memo:
    """What slots gave for the choices before them: architectures that begin alike share their beginning.

    Only the last of each depth is kept, so architectures should come in the order of a tree's leaves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.part: tuple[str, int] = ("", 0)
        self.path: list[str] = []
        self.kept: dict[tuple[tuple[str, int], int], tuple[tuple[str, ...], Tensor]] = {}

    def begin(self, part: tuple[str, int]) -> None:
        """Begin a forward on these images."""
        self.part = part
        self.path.clear()

    def recall(self, operator: str) -> Tensor | None:
        """Go one slot further with this operator; its output, where it is known."""
        self.path.append(operator)
        path, out = self.kept.get((self.part, len(self.path)), ((), None))
        return out if path == tuple(self.path) else None

    def keep(self, out: Tensor) -> None:
        """Remember an output, where there is room."""
        key = (self.part, len(self.path))
        self.kept.pop(key, None)
        held = sum(tensor.nbytes for _, tensor in self.kept.values())
        if held + out.nbytes <= self.limit:
            self.kept[key] = (tuple(self.path), out)


class Single(nn.Module):
    """One candidate of a slot at a time."""

    def __init__(self, name: str, candidates: Candidates, memo: Memo, order: list[str]) -> None:
        super().__init__()
        self.name, self.candidates, self.memo, self.order = name, candidates, memo, order
        self.operator = candidates.names[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.name not in self.order:
            self.order.append(self.name)
        known = self.memo.recall(self.operator)
        if known is None:
            known = self.candidates.outputs(x, [self.operator])[self.operator]
            self.memo.keep(known)
        return known.clone()  # the backbone may change it in place


class Judge:
    """Evaluate sub-networks of a trained supernet on the validation part, after recalibrating their batch norms.

    The statistics of a supernet's batch norms belong to all its paths; what is judged gets its own, from one batch of
    training images.

    Args:
        backbone: with a module that has `candidates` at every slot, as one-shot strategies leave it; a copy is used.
        slots: of the backbone.
        calibration: inputs of training, (B, C, H, W), for the statistics; None leaves the supernet's.
        batches: to be judged by, the same whenever they are asked for.
        task: that says what a network is worth; classification by default.
    """

    def __init__(
        self,
        backbone: nn.Module,
        slots: Sequence[Slot],
        calibration: Tensor | None,
        batches: Iterable[Any],
        task: Task | None = None,
    ) -> None:
        self.task = task or Classification()
        self.network = copy.deepcopy(backbone).eval()
        self.slots, self.calibration, self.batches = slots, calibration, batches
        self.norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        for norm in self.norms:
            norm.momentum = 1.0  # the statistics are those of the last batch

    @classmethod
    def of(
        cls, backbone: nn.Module, slots: Sequence[Slot], data: Data, task: Task | None = None, recalibrated: bool = True
    ) -> Self:
        """Make one that judges by the search-validation part, on its `evaluation_device`. Every call takes the same images."""
        device = evaluation_device(backbone)
        loader = data.val_dataloader()
        channels, height, width = data.input_size
        size = channels * height * width
        task = task or Classification()
        few = len(loader) * (loader.batch_size or 1) * size * 4 <= MEMORY  # float32
        batches = [move_data_to_device(batch, device) for batch in loader] if few else loader
        calibration = None
        if recalibrated:
            seed_all(data.seed or 0)
            number = min(CALIBRATION, -(-PIXELS // (height * width)))
            drawn = itertools.chain.from_iterable(map(task.inputs, data.train_dataloader()))
            calibration = torch.stack(list(itertools.islice(drawn, number))).to(device)
        judge = cls(backbone, slots, calibration, batches, task)
        judge.network.to(device)
        return judge

    def candidates_at(self, slot: Slot) -> Candidates:
        """Return the candidates of the copy, while the slot is as the strategy left it."""
        home: Any = self.network.get_submodule(slot.name)
        candidates: Candidates = home.candidates
        return candidates

    def begin(self, part: tuple[str, int]) -> None:
        """Begin a forward on these images. Subclasses that remember override it."""

    @torch.no_grad()
    def measure(self) -> float:
        """Return the score of the network as it stands."""
        if self.calibration is not None:
            for norm in self.norms:
                norm.train()
            self.begin(("calibration", 0))
            self.network(self.calibration)
            for norm in self.norms:
                norm.eval()
        device = next(self.network.parameters()).device

        def begun() -> Iterator[Any]:
            for number, batch in enumerate(self.batches):
                self.begin(("judged", number))
                yield batch

        return self.task.evaluate(self.network, begun(), device).score


class Ranker(Judge):
    """Judges architectures. What they have in common from the input on is computed once for slots, which are what costs.

    Args: those of `Judge`, and
        memory: bytes that what is shared may take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        slots: Sequence[Slot],
        calibration: Tensor | None,
        batches: Iterable[Any],
        task: Task | None = None,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(backbone, slots, calibration, batches, task)
        self.memo, self.order = Memo(memory), list[str]()
        self.singles: dict[str, Single] = {}
        for slot in slots:
            self.singles[slot.name] = Single(slot.name, self.candidates_at(slot), self.memo, self.order)
            put(self.network, slot.name, self.singles[slot.name])

    def begin(self, part: tuple[str, int]) -> None:
        self.memo.begin(part)

    def score(self, choice: Mapping[str, str]) -> float:
        """Return the score of slot → operator."""
        for name, single in self.singles.items():
            single.operator = choice[name]
        return self.measure()

    @torch.no_grad()
    def in_tree_order(self, choices: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return the choices in the order in which they share most."""
        if not self.order:
            self.memo.begin(("order", 0))
            x = self.task.inputs(next(iter(self.batches)))
            self.network(x[:2].to(next(self.network.parameters()).device))
        return sorted(map(dict, choices), key=lambda choice: [choice[name] for name in self.order])
