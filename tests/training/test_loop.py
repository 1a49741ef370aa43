"""Training: what it leaves behind, that a run cut off and continued equals one that was not, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.training.loop import Fitted, fit, measure, recalibrate
from acmix_nas.training.module import Retraining
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.task import Classification
from acmix_nas.util.errors import UserError
from tests.small import PATIENCE, Tiny, part, tiny

CPU: dict[str, Any] = {"accelerator": "cpu"}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ImageData(DataConfig(image_size=8, batch_size=128))


class Interrupt(pl.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int = 2) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if (trainer.current_epoch, batch_idx) == (self.epoch, 3):
            raise KeyboardInterrupt


def run(network: nn.Module, data: ImageData, recipe: Recipe, folder: Path, **options: Any) -> Fitted:
    return fit(network, data, recipe, folder, **{"progress": False, "trainer_kwargs": CPU, **options})


RECIPES = {
    "plain": Recipe(epochs=4),
    "mixed": Recipe(epochs=4, mixup=0.2, cutmix=1.0, ema_decay=0.9, clip_grad=1.0),
    "sgd": Recipe(epochs=4, optimizer="sgd", lr=0.1, schedule="poly", precision="bf16-mixed"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("augmentation", [{}, {"re_prob": 0.5}, {"re_prob": 0.5, "workers": 1}], ids=["as-is", "aug", "worker"])
def test_a_run_cut_off_and_continued_equals_an_uninterrupted_one(
    recipe: Recipe, augmentation: dict[str, Any], tmp_path: Path
) -> None:
    data = ImageData(DataConfig(image_size=8, batch_size=128, **augmentation))
    whole = run(tiny(), data, recipe, tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), data, recipe, tmp_path / "cut", callbacks=[Interrupt(epoch)], resume=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "cut" / "result.json").exists()
    network = Tiny()  # whatever it starts from, the checkpoint counts
    continued = run(network, data, recipe, tmp_path / "cut", resume=True)
    assert (continued.validation, continued.test) == (whole.validation, whole.test)
    kept = [torch.load(tmp_path / name / "network.pt", weights_only=True) for name in ("whole", "cut")]
    for name, value in network.state_dict().items():
        assert torch.equal(kept[0][name], value), name
        assert torch.equal(kept[1][name], value), name


def test_leaves_result_weights_checkpoints_and_curves(data: ImageData, tmp_path: Path) -> None:
    network, recipe = tiny(), Recipe(epochs=2, seed=3)
    fitted = run(network, data, recipe, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert Fitted.read(result) == fitted
    assert list(result) == [
        "made_by", "date", "versions", "format", "version", "recipe", "data", "task", "epochs", "metric_name", "val_accuracy",
        "test_accuracy", "train_seconds", "seed", "parameters",
    ]  # fmt: skip
    assert (result["seed"], result["epochs"], result["recipe"]["lr"]) == (3, 2, recipe.lr)
    assert result["data"]["image_size"] == 8
    assert result["parameters"] == 224 + 16 + 730 + 1
    assert fitted.test == measure(network, data, "test").score
    assert fitted.validation == measure(network, data, "validation").score
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert len(curves.Scalars(name)) == 2
    assert curves.Scalars("val_accuracy")[-1].value == pytest.approx(result["val_accuracy"])


def test_the_test_part_is_opened_once_and_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, opened = ImageData(DataConfig(image_size=8, batch_size=256)), []
    loader = data.test_dataloader

    def watched() -> DataLoader[Any]:
        opened.append((tmp_path / "checkpoints" / "last.ckpt").exists())
        return loader()

    monkeypatch.setattr(data, "test_dataloader", watched)
    run(tiny(), data, Recipe(epochs=1), tmp_path)
    assert opened == [True]


def test_a_folder_that_holds_something_is_refused(data: ImageData, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, warmup_epochs=0)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), data, recipe, tmp_path, callbacks=[Interrupt()])
    with pytest.raises(UserError, match="holds an unfinished run; resume it"):
        run(tiny(), data, recipe, tmp_path)
    with pytest.raises(UserError, match=r"recipe must be what the run was begun with, lr=0\.\d+;"):
        run(tiny(), data, replace(recipe, lr=1.0), tmp_path, resume=True)
    with pytest.raises(UserError, match="data must be what the run was begun with, image_size=8, batch_size=128;"):
        run(tiny(), ImageData(DataConfig(image_size=9)), recipe, tmp_path, resume=True)
    with pytest.raises(UserError, match="network must be the one"):
        run(nn.Sequential(tiny()), data, recipe, tmp_path, resume=True)
    finished = run(tiny(), data, recipe, tmp_path, resume=True)
    for resume in (False, True):
        with pytest.raises(UserError, match="holds a result already"):
            run(tiny(), data, recipe, tmp_path, resume=resume)
    # Cut off between training and the result:
    (tmp_path / "result.json").unlink()
    assert run(tiny(), data, recipe, tmp_path, resume=True).test == finished.test


def test_resuming_before_the_first_checkpoint_begins(data: ImageData, tmp_path: Path) -> None:
    assert run(tiny(), data, Recipe(epochs=1), tmp_path, resume=True).epochs == 1


def test_the_average_is_what_is_judged_and_kept(data: ImageData, tmp_path: Path) -> None:
    network = tiny()
    result = run(network, data, Recipe(epochs=2, ema_decay=0.95), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    average = state["average.module.0.weight"]
    assert not torch.equal(average, state["_network.0.weight"])
    assert torch.equal(network.get_parameter("0.weight"), average)
    assert result.validation == measure(network, data, "validation").score


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_rate_warms_up_and_falls_after_every_update(data: ImageData, tmp_path: Path) -> None:
    rates, recipe = Rates(), Recipe(epochs=4, lr=0.01, min_lr=1e-4, warmup_epochs=1)
    run(tiny(), data, recipe, tmp_path, callbacks=[rates])
    steps = 1077 // 128
    assert len(rates.seen) == 4 * steps
    assert rates.seen[:steps] == sorted(rates.seen[:steps])
    assert rates.seen[0] == pytest.approx(1e-5)
    assert 0.8 * 0.01 < rates.seen[steps] <= 0.01
    assert rates.seen[steps:] == sorted(rates.seen[steps:], reverse=True)
    assert 1e-4 <= rates.seen[-1] < 2e-4


class Manual(Retraining):
    """Steps the optimizer and the schedule as NNI's one-shot strategies do."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        optimizer.step()  # type: ignore[union-attr]
        (config,) = self.trainer.lr_scheduler_configs
        assert config.interval == "step"
        self.lr_scheduler_step(config.scheduler, None)
        return loss


@pytest.mark.filterwarnings("ignore")
def test_manual_optimisation_follows_the_same_schedule(data: ImageData, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2)
    automatic, manual = Rates(), Rates()
    run(tiny(), data, recipe, tmp_path, callbacks=[automatic])
    trainer = pl.Trainer(
        **CPU, max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[manual],
    )  # fmt: skip
    trainer.fit(Manual(tiny(), recipe, Classification().prepare(recipe, data)), data)
    assert manual.seen == automatic.seen
    (tested,) = trainer.test(Manual(tiny(), recipe, Classification().prepare(recipe, data)), data, verbose=False)
    assert set(tested) == {"test_loss", "test_accuracy"}


def test_prints_nothing_without_progress(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    run(tiny(), data, Recipe(epochs=1, ema_decay=0.9), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_evaluation_sees_every_image_in_evaluation_mode(data: ImageData) -> None:
    network = tiny()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    result = measure(network, data, "validation")
    assert [module.training for module in network.modules()] == modes
    images, labels = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    logits = network.eval()(images).detach()
    assert result.samples == 360
    assert result.score == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    with pytest.raises(UserError, match="part must be one of validation, test; got 'train'"):
        measure(network, data, "train")


def test_recalibration_is_the_plain_mean_over_the_batches(data: ImageData) -> None:
    network = tiny().eval()
    norm = part(network, "1", nn.BatchNorm2d)
    norm.momentum = 0.3
    network.get_buffer("1.running_mean").fill_(99.0)
    recalibrate(network, data, batches=2)
    batches = [images for images, _ in data.train_dataloader()][:2]
    expected = torch.stack([network[0](images).mean((0, 2, 3)) for images in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == 0.3
    assert not any(module.training for module in network.modules())


def test_an_unknown_optimizer_is_one_line(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="optimizer must be a name that timm knows; got 'nonsense'"):
        run(tiny(), data, Recipe(epochs=1, optimizer="nonsense"), tmp_path)


DISTRIBUTED = """
import sys
from pathlib import Path
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.loop import fit
from tests.training.test_loop import tiny

data = ImageData(DataConfig(image_size=8, batch_size=64))
kwargs = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
result = fit(tiny(), data, Recipe(epochs=3, ema_decay=0.9), Path(sys.argv[1]), progress=False, trainer_kwargs=kwargs)
print("accuracy", result.test, flush=True)
"""


@pytest.mark.slow
def test_two_processes_train_together_and_both_return_the_result(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(DISTRIBUTED)
    command = [sys.executable, str(script), str(tmp_path / "run")]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env={"PYTHONPATH": root})
    root = str(Path(__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, env={"PYTHONPATH": root})
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert done.stdout.count(f"accuracy {result['test_accuracy']}") == 2


@pytest.mark.slow
def test_the_default_recipe_learns_the_digits(tmp_path: Path) -> None:
    network = timm.create_model("resnet26", channels=(16, 32, 64, 128), num_classes=10)
    fitted = run(network, ImageData(DataConfig()), Recipe(), tmp_path)
    assert fitted.test is not None
    assert fitted.test > 0.95


class Terminate(pl.Callback):
    """A scheduler's SIGTERM in the first epoch."""

    def on_train_batch_end(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_a_terminated_training_is_no_success(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        fit(tiny(), data, Recipe(epochs=2), tmp_path, callbacks=[Terminate()], progress=False)
    assert ended.value.code == 128 + signal.SIGTERM
