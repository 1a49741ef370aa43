"""Single paths, begun as a mixture: what runs when, what reaches NNI, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acmix_nas import hybridize
from acmix_nas.search_spaces import SampledSlot
from acmix_nas.strategies import SinglePath
from acmix_nas.util.errors import UserError
from tests.searching.test_run import config, trained
from tests.small import RESNET, images


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_first_epochs_train_the_mixture_and_the_others_single_paths(
    warmup: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(strategy="single_path", epochs=3, arc_warmup=warmup)
    seen: list[bool] = []
    run = SampledSlot.forward

    def watched(slot: SampledSlot, x: torch.Tensor) -> torch.Tensor:
        if slot.training:
            seen.append(slot.averaging)
        out: torch.Tensor = run(slot, x)
        return out

    monkeypatch.setattr(SampledSlot, "forward", watched)
    trained(settings, tmp_path)
    third = len(seen) // 3
    assert seen == [True] * (warmup * third) + [False] * ((3 - warmup) * third)


def test_an_averaging_slot_gives_the_mean_in_training_and_one_path_in_evaluation() -> None:
    space = hybridize(**RESNET, candidates=["conv", "local", "acmix_local"])
    SinglePath(warmup_epochs=1).mutate_model(space)
    slot = next(module for module in space.modules() if isinstance(module, SampledSlot))
    slot.resample({})
    slot.averaging = True
    x = images()[:, :1].expand(-1, slot.slot.in_channels, -1, -1)
    slot.train()
    outputs = slot.candidates.outputs(x)
    torch.testing.assert_close(slot(x), sum(outputs.values()) / 3)
    slot.eval()
    torch.testing.assert_close(slot(x), slot.candidates.outputs(x)[str(slot._sampled)])


def test_a_negative_warm_up_is_refused() -> None:
    with pytest.raises(UserError, match="warmup_epochs must be 0 or more; got warmup_epochs=-1"):
        SinglePath(warmup_epochs=-1)
