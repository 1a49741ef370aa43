"""The command line: every kind of bad input ends in one line and status 2, loses nothing and overwrites nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import Observation, append_history
from acmix_nas.cli.main import COMMANDS, main
from acmix_nas.research.benchmark import Space, Table
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_document
from acmix_nas.util.terminal import BrokenRun

ROOT = Path(__file__).parents[2]
SLOTS = {"layer1.0.conv2": "conv", "layer2.0.conv2": "acmix_local", "layer3.0.conv2": "local", "layer4.0.conv2": "conv"}


Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run a command line in an empty folder, in this process; gives what it prints for a person."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run_line(*arguments: str, status: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["acmix-nas", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == status, said.err
        return said.err if status else said.out

    return run_line


def one_line(said: str, *parts: str) -> None:
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert all(part in said for part in parts), said


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    data = {"name": "digits", "num_classes": 10, "image_size": 16}
    found = Architecture(
        "resnet14t", SLOTS, ["conv", "local", "acmix_local"], {"channels": [8, 8, 16, 16]}, ("layer*",), data=data
    )  # fmt: skip
    return found.save(tmp_path / "architecture.json")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    content = yaml.safe_load((ROOT / "experiments" / "digits-darts.yml").read_text())
    file = tmp_path / "experiment.yml"
    file.write_text(yaml.safe_dump({**content, "trialCodeDirectory": str(tmp_path)}))
    return file


def changed(config: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


def test_missing_config(call: Call) -> None:
    one_line(call("experiment", "none.yml"), "none.yml")


def test_unknown_operator_in_a_config(call: Call, config: Path, tmp_path: Path) -> None:
    changed(config, "conv,local,acmix_local", "conv,locl")
    one_line(call("experiment", config.name), "operator must be conv, ", "'locl'")
    assert not (tmp_path / "nni-experiments").exists()


def test_unknown_parameter_in_a_config(call: Call, config: Path) -> None:
    changed(config, "penalty:", "penality:")
    one_line(call("experiment", config.name), "'penality' is no option")


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_busy_port(call: Call, config: Path, busy_port: int) -> None:
    one_line(call("experiment", config.name, "--port", str(busy_port)), str(busy_port))


@pytest.mark.parametrize("command", [["retrain"], ["profile"], ["export-onnx"]])
def test_corrupt_architecture(call: Call, command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_text('{"format": "acmix-nas architecture", "slots":')
    before = sorted(tmp_path.rglob("*"))
    arguments = [*command, "architecture.json", *(["out.onnx"] if command == ["export-onnx"] else [])]
    one_line(call(*arguments), "architecture 'architecture.json' is not JSON")
    assert sorted(tmp_path.rglob("*")) == before


def test_architecture_of_another_backbone(call: Call, architecture: Path) -> None:
    content = json.loads(architecture.read_text())
    architecture.write_text(json.dumps({**content, "backbone": "resnet18"}))
    one_line(call("profile", "architecture.json"), "slot")


def test_backbone_without_convolutions(call: Call) -> None:
    done = call("search", "--backbone", "vit_tiny_patch16_224", "--output", "run")
    one_line(done, "VisionTransformer has no dense 3×3 convolution")


def test_unknown_backbone(call: Call) -> None:
    one_line(call("search", "--backbone", "resnet1O", "--output", "run"), "backbone", "'resnet1O'")


def test_empty_image_folder(call: Call, architecture: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    done = call("retrain", architecture.name, "--data", "images", "--output", "run")
    one_line(done, "'images'", "image")


def test_broken_image(call: Call, architecture: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (16, 16)).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "a" / "3.png").write_bytes(b"no image")
    done = call(
        "retrain", architecture.name, "--data", "images", "--epochs", "1", "--output", "run"
    )  # fmt: skip
    assert done.splitlines()[-1].startswith("error: ")
    assert "3.png" in done.splitlines()[-1]


def test_a_result_is_not_overwritten(call: Call, architecture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    done = call("retrain", architecture.name, "--output", "run", "--epochs", "1")
    one_line(done, "'run'", "another folder")
    assert [file.name for file in run.iterdir()] == ["result.json"]


def test_search_export_retrain_evaluate(call: Call, tmp_path: Path) -> None:
    """Each step takes the images of the one before it, and none needs to be told twice."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            colour = (20 * i, 0, 0) if name == "a" else (0, 20 * i, 255)
            Image.new("RGB", (20, 16), colour).save(tmp_path / "images" / name / f"{i}.png")
    common = ["--epochs", "2", "--batch-size", "8"]
    said = call(
        "search", "--data", "images", "--image-size", "16", "--backbone", "resnet14t", "--slots", "layer*",
        "--backbone-args", "channels=[8,8,16,16]", "--output", "found", *common, status=0,
    )  # fmt: skip
    assert "layer1.0.conv2" in said
    assert "next: acmix-nas retrain found" in said
    assert "best/architecture.json" in call("export", "found", "--output", "best", status=0)
    assert "2 epochs" in call("retrain", "best", "--warm", "--output", "trained", *common, status=0)
    assert Architecture.load(tmp_path / "trained" / "architecture.json").data["num_classes"] == 2
    assert "of 5 samples" in call("evaluate", "trained", status=0)
    one_line(call("evaluate", "trained", "--data", "digits"), "must have classes of the network, a, b; they have 0, 1, 2")
    one_line(call("export", "found", "--output", "best"), "exists already")
    (tmp_path / "file").write_text("x")
    one_line(call("export", "found", "--output", "file"), "'file' is a file")


def test_a_network_of_drawn_images_is_evaluated_on_others(call: Call, tmp_path: Path) -> None:
    """Also where they were drawn by a seed, which belongs to the images of the training."""
    data = {"name": "cued-digits", "data_seed": 3, "num_classes": 10, "image_size": 16}
    architecture = Architecture("resnet10t", {}, (), {"channels": [8, 8, 16, 16]}, data=data)
    torch.save(build(architecture).state_dict(), tmp_path / "network.pt")
    architecture.save(tmp_path / "architecture.json")
    assert "of 360 samples" in call("evaluate", ".", "--data", "digits", status=0)


def test_a_network_of_timms_is_taken_by_its_name(call: Call, tmp_path: Path) -> None:
    """Every later step takes the folder of its training, as that of any other."""
    (tmp_path / "short.yml").write_text(
        "epochs: 3\nwarmup-epochs: 0\nbatch_size: 256\nimage_size: 16\noptimizer: momentum\nlr: 1e-2\n"
        "backbone_args: {layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}\n"
    )
    said = call(
        "retrain", "resnet26_acmix", "--config", "short.yml", "--epochs", "1", "--backbone-args", "mixing=sum",
        "--output", "run", status=0,
    )  # fmt: skip
    assert "after 1 epoch in" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [result["recipe"][name] for name in ("epochs", "optimizer", "lr")] == [1, "momentum", 0.01]
    architecture = Architecture.load(tmp_path / "run" / "architecture.json")
    assert (architecture.backbone, architecture.slots, architecture.candidates) == ("resnet26_acmix", {}, ())
    assert architecture.backbone_args == {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "mixing": "sum"}
    assert "of 360 samples" in call("evaluate", "run", status=0)
    assert "run" in call("profile", "run", "--output", "profile", status=0)
    assert (tmp_path / call("bias", "run", "--output", "bias", status=0).split()[0]).exists()
    call("export-onnx", "run", "out.onnx", status=0)


def test_names_and_files_are_profiled_side_by_side(call: Call, architecture: Path) -> None:
    said = call("profile", "resnet26_conv", architecture.name, "resnet18", "--image-size", "32", "--output", "out", status=0)
    assert all(name in said for name in ("resnet26_conv", "resnet18"))


def test_a_network_built_for_one_size_is_told_the_size(call: Call) -> None:
    said = call("profile", "vit_tiny_patch16_224", "--image-size", "64", "--output", "out", status=0)
    assert "vit_tiny_patch16_224" in said


def test_the_size_of_the_images_must_be_known(call: Call) -> None:
    one_line(call("profile", "resnet18"), "--image-size must be given")


@pytest.mark.parametrize("command", [["retrain"], ["profile"], ["export-onnx"]])
def test_neither_a_path_nor_a_name(call: Call, command: list[str]) -> None:
    arguments = [*command, "resnet1O", *(["out.onnx"] if command == ["export-onnx"] else [])]
    one_line(call(*arguments), "architecture must be architecture.json", "there is no 'resnet1O'; did you mean 'resnet")


def test_a_path_stands_over_a_name(call: Call, tmp_path: Path) -> None:
    (tmp_path / "resnet18").mkdir()
    one_line(call("profile", "resnet18", "--image-size", "32"), "resnet18/architecture.json")


def test_a_config_stands_over_what_the_search_used(call: Call, architecture: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text("image_size: 24\nbatch_size: 256")
    call("retrain", architecture.name, "--config", "recipe.yml", "--epochs", "1", "--output", "run", status=0)
    assert Architecture.load(tmp_path / "run" / "architecture.json").data["image_size"] == 24


@pytest.mark.parametrize("command", ["retrain", "search"])
def test_a_mistake_in_a_config_file(call: Call, architecture: Path, command: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text("learning_rate: 0.1")
    saved = [architecture.name] if command == "retrain" else []
    one_line(call(command, *saved, "--config", "recipe.yml"), "config 'recipe.yml'", "'learning_rate' is no option")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ""),
        (["--data", "hfds/some/images"], "--data hfds/some/images"),
        (["--data", "my photos"], "--data '{folder}/my photos'"),
        (["--data", "digits", "--trial-options", "--epochs 3 --seed 1"], "--data digits --epochs 3 --seed 1"),
    ],
)
def test_options_for_the_trials_of_an_experiment(
    call: Call, arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my photos").mkdir()
    asked: list[str] = []

    def launched(*_: Any, trial_options: str, **__: Any) -> Path:
        asked.append(trial_options.strip())
        return tmp_path

    monkeypatch.setattr("acmix_nas.nnictl.experiment.launch", launched)
    call("experiment", "config.yml", *arguments, status=0)
    assert asked == [expected.format(folder=tmp_path)]


def test_an_accelerator_that_is_not_there(call: Call, architecture: Path) -> None:
    said = call("retrain", architecture.name, "--accelerator", "tpu", "--epochs", "1", "--output", "run")
    one_line(said, "Lightning refuses", "'tpu'")


def test_resume_needs_to_know_what(call: Call, architecture: Path) -> None:
    one_line(call("retrain", architecture.name, "--resume"), "--resume needs --output")


def test_warm_needs_weights(call: Call, architecture: Path) -> None:
    one_line(call("retrain", architecture.name, "--warm", "--output", "run"), "--warm needs weights")


def test_unknown_experiment(call: Call) -> None:
    one_line(call("export", "nothing"), "nothing")


def test_experiment_of_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_line(call("export", "empty"), "empty")


def test_bias_of_a_folder_without_history(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    one_line(call("bias", "run", "--output", "out"), "history.csv")


def test_bias_of_an_experiment_draws_the_trials_of_each_backbone(call: Call, tmp_path: Path) -> None:
    networks = [{"backbone": backbone, "depth": 2} for backbone in ("san10_acmix", "swin_tiny_acmix")]
    settings: list[dict[str, Any]] = [
        *({"network": network, "seed": seed} for network in networks for seed in (0, 1)),
        {"mixing": "convolution"},
    ]
    for sequence, parameters in enumerate(settings):
        folder = tmp_path / "experiment" / "trials" / f"T{sequence}"
        backbone = parameters.get("network", networks[0])["backbone"]
        Architecture(backbone, {}, ()).save(folder / "architecture.json")
        about = {"trial": "T", "sequence": sequence, "metric": 0.5, "seconds": 1, "architecture": "architecture.json"}
        write_document(folder / "result.json", "result", {**about, "parameters": parameters})
        if "network" in parameters:
            append_history(folder / "history.csv", [Observation(1, "layers.0.attn", "acmix_window", None, 0.5, 0.25)])
    call("bias", "experiment", "--output", "out", status=0)
    for backbone in ("san10_acmix", "swin_tiny_acmix"):
        assert (tmp_path / "out" / backbone / "figure5.png").exists()
        table = (tmp_path / "out" / backbone / "bias.csv").read_text()
        runs = [line.split(",")[0] for line in table.splitlines() if "acmix_window" in line]
        assert runs == [f"{backbone}-seed=0", f"{backbone}-seed=1"]


def test_onnx_is_not_overwritten(call: Call, architecture: Path, tmp_path: Path) -> None:
    torch.save(build(architecture).state_dict(), tmp_path / "network.pt")
    (tmp_path / "out.onnx").write_text("precious")
    one_line(call("export-onnx", architecture.name, "out.onnx"), "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "precious"


@pytest.mark.parametrize("command", [name for commands in COMMANDS.values() for name in commands])
def test_every_command_has_help(call: Call, command: str) -> None:
    said = call(command, "--help", status=0)
    assert f"Usage: acmix-nas {command}" in said
    assert command in call("--help", status=0)


def test_all_options_are_shown_by_subject(call: Call) -> None:
    every = call("search", "--help-all", status=0)
    panels = ("Search", "Strategy single_path", "Strategy darts", "Images", "Augmentation", "Training", "Devices", "Run")
    places = [every.index(f"╭─ {panel}") for panel in panels]
    assert places == sorted(places)
    assert "--re-prob" in every
    assert "--re-prob" not in call("search", "--help", status=0)
    one_line(call("profile", "resnet18", "--help-all"), "Unknown option", "--help-all")


def test_trials_are_hidden_but_there(call: Call) -> None:
    assert "│ trial" not in call("--help", status=0)
    assert all(name in call("trial", "--help", status=0) for name in ("search", "evaluate", "train"))
    assert "--check" in call("trial", "train", "--help", status=0)


def test_the_version(call: Call) -> None:
    assert call("--version", status=0).strip() == version("acmix-nas")


def test_completion_is_installed_for_the_shell(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHELL", "/bin/bash")
    call("--install-completion", status=0)
    (script,) = (tmp_path / "home").rglob("completions/acmix-nas")
    assert "export-onnx" in script.read_text()
    assert "--label-smoothing" in script.read_text()


def test_the_printed_config_of_a_search_reads_back_to_the_same(call: Call, tmp_path: Path) -> None:
    line = ["--budget", "macs=1.2M,latency=3ms", "--heads", "layer1.*=2,layer2.*=4", "--samples", "7"]
    text = call("search", *line, "--mean", "0.5,0.5,0.5", "--backbone-args", "channels=[16,32]", "--print-config", status=0)
    (tmp_path / "search.yml").write_text(text)
    assert call("search", "--config", "search.yml", "--print-config", status=0) == text
    assert yaml.safe_load(text)["backbone_args"] == {"channels": [16, 32]}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BrokenRun("it broke\nhere"), 1, "failed: it broke\nhere\n"),
        (UserError("no"), 2, "error: no\n"),
        (ModuleNotFoundError("No module named 'nni'", name="nni"), 2, "error: this command needs NNI"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends(call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("acmix_nas.nnictl.experiment.launch", broken)
    assert call("experiment", "config.yml", status=status).startswith(said)


def test_unknown_options_are_named(call: Call) -> None:
    one_line(call("search", "--epoch", "3"), "Unknown option: --epoch", "--epochs")
    one_line(call("profile", "resnet18", "--image", "32"), "Unknown option: --image", "--image-size")
    one_line(call("serch"), "serch", '"search"')


def test_the_console_script_ends_the_same_way(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("acmix-nas")
    command = [str(script), "search", "--backbone", "resnet1O"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    one_line(done.stderr, "resnet1O")
    assert not (tmp_path / "runs").exists()


def test_figure5_needs_an_experiment(call: Call) -> None:
    one_line(call("paper", "fig5"), "fig5 needs the folder of an experiment")


def test_an_unknown_table(call: Call) -> None:
    one_line(call("paper", "table9"), "table must be", "table1", "'table9'")


def test_a_benchmark_of_nothing(call: Call) -> None:
    one_line(call("bench", "operators", "--repeats", "0", "--output", "bench"), "repeats must be at least 2")


def test_fused_networks_beside_the_others(call: Call, architecture: Path, tmp_path: Path) -> None:
    said = call("profile", str(architecture), "--fused", "--output", "profiled", status=0)
    assert "fused" in said
    assert set(json.loads((tmp_path / "profiled" / "profile.json").read_text())["networks"]) == {
        tmp_path.name, f"{tmp_path.name}, fused",
    }  # fmt: skip


def test_a_fused_export(call: Call, architecture: Path, tmp_path: Path) -> None:
    said = call("export-onnx", str(architecture), "fused.onnx", "--fused", status=0)
    assert "layer2.0.conv2" in said
    assert "batch norms folded" in said
    assert (tmp_path / "fused.onnx").stat().st_size > 0


@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_interrupted_says_how_to_go_on(
    number: signal.Signals, begun: bool, call: Call, architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_architecture: object, _data: object, _recipe: object, folder: Path, **_: object) -> None:
        if begun:
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "checkpoints" / "last.ckpt").touch()
        os.kill(os.getpid(), number)

    monkeypatch.setattr("acmix_nas.training.retrain.train_architecture", interrupted)
    said = call("retrain", str(architecture), "--output", "here", status=128 + number)
    goes_on, nothing = "the same command with --resume --output here goes on", "nothing was kept: there was no checkpoint yet"
    assert (goes_on if begun else nothing) in said


@pytest.mark.parametrize("command", [["assess", "--strategy", "darts"], ["queries"]])
def test_what_takes_long_looks_first_where_it_may_write(call: Call, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    one_line(call(*command, "--output", "precious"), "'precious'")
    assert (tmp_path / "precious").read_text() == "x"


def test_a_derivation_names_what_it_was_given(call: Call, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# notes")
    one_line(call("derive", "notes.md"), "architecture 'notes.md' is not JSON")
    one_line(call("derive", "none"), "no file 'none'")


def test_a_folder_below_a_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# notes")
    one_line(call("search", "--data", "digits", "--output", "notes.md/run"), "'notes.md/run'", "not a directory")


def test_a_table_of_longer_trainings(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def tabulate(space: Space, *_: object, **__: object) -> Table:
        asked.append(space.alone(0).epochs)
        raise UserError("enough")

    monkeypatch.setattr("acmix_nas.research.benchmark.tabulate", tabulate)
    for more in ([], ["--epochs", "24"]):
        assert "error: enough" in call("tabulate", *more)
    assert asked == [12, 24]
    one_line(call("tabulate", "--epochs", "0"), "race_epochs must be at least 1")


def test_a_folder_with_brackets_is_named_as_it_is(call: Call, architecture: Path) -> None:
    said = call("profile", str(architecture), "--output", "[v2] a [/b]", status=0)
    assert "written to [v2] a [/b]" in said
    assert "latency b1 [ms]" in said
