"""Observing a network, its history, TensorBoard and the figures."""

from __future__ import annotations

import csv
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from acmix_nas.bias import (
    BiasLogger,
    Observation,
    append_history,
    figure5,
    heat_map,
    log_ratio,
    observe,
    probability_figure,
    read_history,
    report,
    stage_of,
    write_figures,
    write_layout,
    write_scalars,
)
from acmix_nas.operators import ACmix
from acmix_nas.util.errors import UserError


class Slot(nn.Module):
    """Stands for a slot of a supernet: two candidates, one of them with an ACmix inside."""

    def __init__(self) -> None:
        super().__init__()
        self.candidate = ACmix(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.candidate(x)
        return out

    def lean(self) -> Iterable[tuple[str, float | None, float | None, float | None]]:
        yield "conv", 0.75, None, None
        yield "acmix_local", 0.25, self.candidate.alpha.item(), self.candidate.beta.item()


class Derived(nn.Module):
    """A derived network: a plain convolution at one slot, ACmix at two."""

    def __init__(self) -> None:
        super().__init__()
        for name, attention in (("layer1", "window"), ("layer2", "global")):
            slot = OrderedDict(operator=ACmix(4, 4, 2, attention), norm=nn.BatchNorm2d(4))
            self.add_module(name, nn.Sequential(nn.Sequential(slot), nn.Conv2d(4, 4, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        for name in ("layer1", "layer2"):
            x = self.get_submodule(name)(x)
        return x


class Module(pl.LightningModule):
    """The smallest thing Lightning can train."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.network(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: BiasLogger, folder: Path, network: nn.Module, epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=TensorBoardLogger(folder, "", ""), callbacks=[callback], **quiet
    )
    data = DataLoader(TensorDataset(torch.randn(4, 4, 5, 5)), batch_size=2)
    trainer.fit(Module(network), data, ckpt_path=str(checkpoint) if checkpoint else None)
    return trainer


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def search(epochs: int = 3) -> list[Observation]:
    """Log a supernet of three slots in two stages that comes to prefer ACmix with depth."""
    observations = []
    for epoch in range(epochs):
        for i, slot in enumerate(("layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2")):
            mixed = 0.2 + 0.1 * i * epoch
            observations += [
                Observation(epoch, slot, "conv", 0.7 - mixed, None, None),
                Observation(epoch, slot, "acmix_local", mixed, 0.5 + 0.1 * i * epoch, -0.5),
                Observation(epoch, slot, "acmix_window", 0.3, 0.25, 0.5),
            ]
    return observations


def retrained() -> list[Observation]:
    return [Observation(2, slot, "acmix_local", None, 0.3, 0.6) for slot in ("layer1.0.conv2", "layer2.0.conv2")]


# Observing


def test_acmix_of_a_derived_network_is_seen_at_its_slot_in_order() -> None:
    network = Derived()
    with torch.no_grad():
        network.get_parameter("layer2.0.operator.mixing.alpha").fill_(-2)
    assert observe(network, 3) == [
        Observation(3, "layer1.0", "acmix_window", None, 0.5, 0.5),
        Observation(3, "layer2.0", "acmix_global", None, -2.0, 0.5),
    ]


def test_slot_speaks_for_what_is_inside_it() -> None:
    network = nn.Sequential(OrderedDict(slot=Slot(), slot2=ACmix(4, 4, 2)))
    assert observe(network, 0) == [
        Observation(0, "slot", "conv", 0.75, None, None),
        Observation(0, "slot", "acmix_local", 0.25, 0.5, 0.5),
        Observation(0, "slot2", "acmix_local", None, 0.5, 0.5),
    ]


@pytest.mark.parametrize(
    ("slot", "stage"),
    [
        ("layer2.0.conv2", "layer2"),
        ("stages.2.blocks.1.conv", "stages.2"),
        ("stage2.0.branches.0.0.conv1", "stage2"),
        ("features.denseblock1.denselayer2.conv2", "features.denseblock1"),
        ("features.3", "features"),
        ("stem.conv1", "stem"),
        ("conv1", "conv1"),
    ],
)
def test_stage(slot: str, stage: str) -> None:
    assert stage_of(slot) == stage


def test_log_ratio_is_of_the_absolute_values_and_has_no_value_at_zero() -> None:
    assert log_ratio(-2.0, 1.0) == pytest.approx(math.log(2))
    assert log_ratio(1.0, 2.0) == pytest.approx(-math.log(2))
    for pair in ((0.0, 1.0), (1.0, 0.0), (None, 1.0), (math.nan, 1.0), (math.inf, 1.0)):
        assert log_ratio(*pair) is None


# History


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.csv"
    for epoch in range(3):
        append_history(path, [o for o in search() if o.epoch == epoch])
    restored = read_history(path)
    assert [o[:3] for o in restored] == [o[:3] for o in search()]
    for ours, theirs in zip(restored, search(), strict=True):
        assert ours[3:] == tuple(None if value is None else pytest.approx(value) for value in theirs[3:])
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# acmix-nas history, version 1, made by: ")
    assert lines[1] == "epoch,slot,operator,probability,alpha,beta"
    assert lines[2] == "0,layer1.0.conv2,conv,0.5,,"


def test_a_command_with_quotes_does_not_swallow_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["acmix-nas", "--note", 'a,"b\nc'])
    append_history(tmp_path / "history.csv", retrained())
    assert read_history(tmp_path / "history.csv") == retrained()


def test_epochs_that_are_run_again_replace_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    append_history(path, search(4))
    again = [Observation(2, "layer1.0.conv2", "conv", 0.125, None, None)]
    append_history(path, again)
    assert [o.epoch for o in read_history(path)] == [0] * 9 + [1] * 9 + [2]
    assert read_history(path)[-1:] == again


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ("", "does not begin with '# acmix-nas history, version"),
        ("HEADER\n0,a,conv,0.5,,\n", "does not begin with '# acmix-nas history, version"),
        ("# acmix-nas bias, version 1, made by: x\nHEADER\n", "is of format 'acmix-nas bias'; it is no history file"),
        ("# acmix-nas history, version 2, made by: x\nHEADER\n", "is of version 2; this package reads versions up to 1"),
        ("COMMENT\n", "must have the header epoch,slot"),
        ("COMMENT\nepoch,slot\n", "must have the header epoch,slot,.* got 'epoch,slot'"),
        ("COMMENT\nHEADER\n0,a,conv,0.5,,\n1,a,conv,half,,\n", "line 4: expected .* got '1,a,conv,half,,'"),
        ("COMMENT\nHEADER\n0.5,a,conv,0.5,,\n", "line 3: expected"),
        ("COMMENT\nHEADER\n0,a,conv,0.5\n", "line 3: expected"),
    ],
)
def test_what_is_no_history_is_refused_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "history.csv"
    if text is not None:
        text = text.replace("COMMENT", "# acmix-nas history, version 1, made by: x")
        path.write_text(text.replace("HEADER", ",".join(Observation._fields)))
    with pytest.raises(UserError, match=message) as caught:
        read_history(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# TensorBoard


def test_scalars(tmp_path: Path) -> None:
    observations = [
        Observation(4, "layer1.0", "conv", 0.25, None, None),
        Observation(4, "layer1.0", "acmix_local", 0.75, -0.5, 1.0),
        Observation(4, "layer2.0", "acmix", None, 0.0, 0.5),
    ]
    with SummaryWriter(str(tmp_path)) as writer:
        write_scalars(writer, observations, 4)
    read = events(tmp_path)
    values = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}
    assert {event.step for series in values.values() for event in series} == {4}
    assert {tag: series[0].value for tag, series in values.items()} == pytest.approx(
        {
            "probability/layer1.0/conv": 0.25,
            "probability/layer1.0/acmix_local": 0.75,
            "entropy/layer1.0": -0.25 * math.log(0.25) - 0.75 * math.log(0.75),
            "alpha/layer1.0/acmix_local": -0.5,
            "beta/layer1.0/acmix_local": 1.0,
            "abs_alpha/layer1.0/acmix_local": 0.5,
            "abs_beta/layer1.0/acmix_local": 1.0,
            "log_ratio/layer1.0/acmix_local": -math.log(2),
            "alpha/layer2.0/acmix": 0.0,
            "beta/layer2.0/acmix": 0.5,
            "abs_alpha/layer2.0/acmix": 0.0,
            "abs_beta/layer2.0/acmix": 0.5,
        }
    )


def test_layout_finds_exactly_the_scalars_of_each_chart(tmp_path: Path) -> None:
    # "layer1x0xconv2" is what an unescaped dot would match as well, "stem2.conv" what "stem" with an open end would.
    strangers = [Observation(0, slot, "conv", 1.0, None, None) for slot in ("layer1x0xconv2", "stem", "stem2.conv")]
    with SummaryWriter(str(tmp_path)) as writer:
        write_layout(writer, [*search(1), *strangers])
        write_scalars(writer, [*search(1), *strangers], 0)
    read = events(tmp_path)
    layout = layout_pb2.Layout()
    layout.ParseFromString(read.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    tags = read.Tags()["scalars"]
    found = {
        category.title: {chart.title: [t for t in tags if re.match(chart.multiline.tag[0], t)] for chart in category.chart}
        for category in layout.category
    }
    assert list(found) == ["layer1", "layer2", "layer1x0xconv2", "stem", "stem2"]
    first = found["layer1"]
    assert first["probability: layer1.0.conv2"] == [
        f"probability/layer1.0.conv2/{operator}" for operator in ("conv", "acmix_local", "acmix_window")
    ]
    mixing = next(tags for title, tags in first.items() if title.startswith("α"))
    slots, operators = ("layer1.0.conv2", "layer1.1.conv2"), ("acmix_local", "acmix_window")
    assert sorted(mixing) == sorted(f"{s}/{slot}/{o}" for s in ("alpha", "beta") for slot in slots for o in operators)
    ratios = next(tags for title, tags in first.items() if title.startswith("log"))
    assert sorted(ratios) == sorted(f"log_ratio/{slot}/{o}" for slot in slots for o in operators)
    entropies = {stage: next(tags for title, tags in found[stage].items() if "entropy" in title) for stage in found}
    assert entropies["layer1"] == [f"entropy/{slot}" for slot in slots]
    assert entropies["stem"] == ["entropy/stem"]


def test_figures_are_written_where_there_is_something_to_draw(tmp_path: Path) -> None:
    for name, observations in (("search", search()), ("retrained", retrained())):
        with SummaryWriter(str(tmp_path / name)) as writer:
            write_figures(writer, observations, 2)
    assert sorted(events(tmp_path / "search").Tags()["images"]) == ["figure 5", "probabilities"]
    assert events(tmp_path / "retrained").Tags()["images"] == ["figure 5"]


# The callback


def test_training_leaves_a_history_scalars_a_layout_and_figures(tmp_path: Path) -> None:
    network = Derived()
    fit(BiasLogger(tmp_path, every=2), tmp_path, network, epochs=3)
    history = read_history(tmp_path / "history.csv")
    assert [(o.epoch, o.slot) for o in history] == [(epoch, f"layer{i}.0") for epoch in range(4) for i in (1, 2)]
    assert history[0].alpha == 0.5
    assert history[-1].alpha == pytest.approx(observe(network, 3)[-1].alpha, rel=1e-5)
    assert history[-1].alpha != 0.5
    read = events(tmp_path)
    assert [event.step for event in read.Scalars("alpha/layer1.0/acmix_window")] == [0, 1, 2, 3]
    assert len(read.Tensors("custom_scalars__config__")) == 1
    assert [event.step for event in read.Images("figure 5")] == [0, 2, 3]  # every second epoch, and the last


def test_resumed_run_goes_on_with_its_history(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = fit(BiasLogger(tmp_path), tmp_path, Derived(), epochs=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    before = read_history(tmp_path / "history.csv")
    later = [Observation(3, "layer1.0", "acmix_window", None, 9.0, 9.0)]  # an epoch after the checkpoint that was lost
    append_history(tmp_path / "history.csv", later)
    fit(BiasLogger(tmp_path), tmp_path, Derived(), epochs=4, checkpoint=tmp_path / "last.ckpt")
    history = read_history(tmp_path / "history.csv")
    assert [o.epoch for o in history] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert history[: len(before)] == before
    assert not any(o.alpha == 9.0 for o in history)


def test_history_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    append_history(tmp_path / "history.csv", search())
    old = (tmp_path / "history.csv").read_text()
    with pytest.raises(UserError, match=r"holds the history.csv of another run"):
        fit(BiasLogger(tmp_path), tmp_path, Derived(), epochs=1)
    assert (tmp_path / "history.csv").read_text() == old


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    append_history(tmp_path / "history.csv", search(epochs=2))
    fit(BiasLogger(tmp_path), tmp_path, Derived(), epochs=1)
    assert {o.slot for o in read_history(tmp_path / "history.csv")} == {"layer1.0", "layer2.0"}
    assert {o.epoch for o in read_history(tmp_path / "history.csv")} == {0, 1}


def test_network_may_be_given(tmp_path: Path) -> None:
    slot = Slot()
    fit(BiasLogger(tmp_path, lambda: nn.ModuleDict({"slot": slot})), tmp_path, Derived(), epochs=1)
    assert {o.slot for o in read_history(tmp_path / "history.csv")} == {"slot"}


def test_network_without_anything_to_observe_leaves_no_trace(tmp_path: Path) -> None:
    fit(BiasLogger(tmp_path), tmp_path, nn.Conv2d(4, 4, 3), epochs=1)
    assert not (tmp_path / "history.csv").exists()
    assert events(tmp_path).Tags()["tensors"] == []
    assert events(tmp_path).Tags()["images"] == []


def test_only_rank_zero_writes(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(is_global_zero=False, current_epoch=0, global_step=0, loggers=[])
    callback = BiasLogger(tmp_path)
    callback.on_train_start(trainer, Module(Derived()))
    callback.on_train_epoch_end(trainer, Module(Derived()))
    assert list(tmp_path.iterdir()) == []


def test_every_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every must be at least 1"):
        BiasLogger(tmp_path, every=0)


# Figures


def test_figure5_draws_the_most_probable_acmix_of_the_last_epoch() -> None:
    figure = figure5({"search": search(), "retrained": retrained()})
    alpha, beta, ratio = (panel.get_lines() for panel in figure.axes[:3])
    # at epoch 2 acmix_local has 0.2, 0.4 and 0.6, acmix_window 0.3 everywhere
    assert np.asarray(alpha[0].get_ydata()).tolist() == pytest.approx([0.25, 0.7, 0.9])
    assert np.asarray(beta[0].get_ydata()).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert np.asarray(ratio[0].get_ydata()).tolist() == pytest.approx([math.log(0.5), math.log(1.4), math.log(1.8)])
    assert np.asarray(alpha[1].get_xdata()).tolist() == [0, 2]
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == sorted({o.slot for o in search()})


def test_figure5_orders_slots_by_depth_though_no_run_has_them_all() -> None:
    def run(*slots: str) -> list[Observation]:
        return [Observation(0, slot, "acmix", None, 1.0, 1.0) for slot in slots]

    figure = figure5({"a": run("stem.1", "layer2.1", "layer10.0"), "b": run("layer2.0", "layer2.1", "layer3.0")})
    labels = [text.get_text() for text in figure.axes[2].get_xticklabels()]
    assert labels == ["layer2.0", "stem.1", "layer2.1", "layer3.0", "layer10.0"]
    with pytest.raises(UserError, match="same order of slots"):
        figure5({"a": run("x", "y"), "b": run("y", "x")})


def test_figure5_survives_an_exact_zero() -> None:
    figure = figure5({"a": [Observation(0, "x", "acmix", None, 0.5, 0.0), Observation(0, "y", "acmix", None, 0.5, 0.5)]})
    assert math.isnan(np.asarray(figure.axes[2].get_lines()[0].get_ydata())[0])


def test_figure5_without_acmix_is_refused() -> None:
    with pytest.raises(UserError, match="none of the runs a has an ACmix"):
        figure5({"a": [Observation(0, "x", "conv", 1.0, None, None)]})


def test_heat_map_shows_the_last_epoch_and_leaves_out_what_is_no_candidate() -> None:
    figure = heat_map([*search(), Observation(2, "layer3.0.conv2", "conv", 1.0, None, None)])
    axes = figure.axes[0]
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): t for t in axes.texts}
    assert cells[2, 1].get_text() == "0.60"
    assert [cells[2, column].get_fontweight() for column in range(3)] == ["normal", "bold", "normal"]
    assert (3, 1) not in cells
    assert len(axes.get_yticks()) == 4


@pytest.mark.parametrize("draw", [heat_map, probability_figure])
def test_network_without_candidates_has_no_probabilities_to_draw(draw: Any) -> None:
    with pytest.raises(UserError, match="no probabilities"):
        draw(retrained())


def test_probability_figure_has_a_panel_per_slot_and_a_line_per_operator() -> None:
    figure = probability_figure(search())
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2"]
    assert np.asarray(panels[2].get_lines()[1].get_ydata()).tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert np.asarray(panels[2].get_lines()[1].get_xdata()).tolist() == [0, 1, 2]


# The report


def runs(folder: Path) -> dict[str, Path]:
    for name, observations in (("search", search()), ("retrained", retrained())):
        append_history(folder / name / "history.csv", observations)
    return {name: folder / name for name in ("search", "retrained")}


def test_report_writes_figures_and_table_that_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["acmix-nas", "bias", "runs"])
    files = report(runs(tmp_path), tmp_path / "out")
    names = ["figure5.png", "heat_map_search.png", "probabilities_search.png", "bias.csv"]
    assert [path.name for path in files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    for path in files[:-1]:
        with Image.open(path) as image:
            assert image.info["Description"] == "made by: acmix-nas bias runs"
    comment, *lines = files[-1].read_text().splitlines()
    assert comment == "# acmix-nas bias, version 1, made by: acmix-nas bias runs"
    rows = list(csv.DictReader(lines))
    assert {(row["run"], row["epoch"]) for row in rows} == {("search", "2"), ("retrained", "2")}
    assert len(rows) == 9 + 2
    row = rows[7]
    assert (row["slot"], row["operator"], row["alpha"], row["beta"]) == ("layer2.0.conv2", "acmix_local", "0.9", "-0.5")
    assert (row["abs_beta"], row["log_ratio"]) == ("0.5", f"{math.log(1.8):.6g}")
    assert rows[0]["alpha"] == rows[0]["log_ratio"] == ""


def test_report_of_a_search_without_acmix_has_no_figure5(tmp_path: Path) -> None:
    append_history(tmp_path / "run" / "history.csv", [o for o in search() if o.operator == "conv"])
    files = report({"run": tmp_path / "run"}, tmp_path / "out")
    assert "figure5.png" not in {path.name for path in files}


def test_report_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="output must be a new or an empty folder"):
        report(runs(tmp_path), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (None, "no file"),
        ([], "neither α and β nor probabilities"),
        ([Observation(0, "x", "conv", None, None, None)], "neither α and β nor probabilities"),
    ],
)
def test_report_names_the_run_that_has_nothing_to_show(
    tmp_path: Path, observations: list[Observation] | None, message: str
) -> None:
    path = tmp_path / "empty" / "history.csv"
    if observations is not None:
        append_history(path, observations or search())
    if observations == []:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(UserError, match=message) as caught:
        report({**runs(tmp_path), "empty": tmp_path / "empty"}, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "empty") in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a/b", ""])
def test_report_refuses_a_name_that_is_no_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="fit for a file name"):
        report({name: tmp_path}, tmp_path / "out")
