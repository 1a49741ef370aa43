"""NNI's multi-trial strategies run on the space as they are, trial by trial in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.strategy import TPE, GridSearch, Random, RegularizedEvolution

from acmix_nas import hybridize
from acmix_nas.search_spaces import HybridSlot
from tests.small import RESNET, SLOTS, images

SEEN: list[Any] = []


def count_parameters(network: torch.nn.Module) -> None:
    assert not any(isinstance(module, HybridSlot) for module in network.modules())
    with torch.no_grad():
        assert network.eval()(images(1)).shape == (1, 5)
    SEEN.append(type(network.get_submodule(f"backbone.{SLOTS[0]}")).__name__)
    nni.report_final_result(-sum(parameter.numel() for parameter in network.parameters()) / 1e6)


# GridSearch with raw models fails in NNI on its own LayerChoice spaces too.
@pytest.mark.parametrize(
    ("strategy", "form"),
    [(Random, "raw"), (Random, "simplified"), (GridSearch, "simplified"), (RegularizedEvolution, "raw"), (TPE, "raw")],
)
def test_stock_strategies(strategy: Any, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    SEEN.clear()
    space = hybridize(**RESNET, candidates=["conv", "local"])
    config = NasExperimentConfig("sequential", form, "local")
    experiment = NasExperiment(space, FunctionalEvaluator(count_parameters), strategy(), config)
    experiment.config.max_trial_number = 4
    experiment.config.experiment_working_directory = str(tmp_path)
    experiment.run()
    experiment.stop()
    (best,) = experiment.export_top_models(top_k=1, formatter="dict")
    assert sorted(best) == SLOTS
    assert len(SEEN) >= 3
    (network,) = experiment.export_top_models(top_k=1, formatter="instance")
    assert network(images()).shape == (2, 5)
