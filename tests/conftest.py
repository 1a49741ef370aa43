"""What all tests share: one thread, one seed, and no GPU test without a GPU."""

from __future__ import annotations

import configparser
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported, and for the processes that tests start: two of pytest's workers with two threads each on two
# cores wait for each other ten times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import acmix_nas.models
import acmix_nas.research.cued_net  # noqa: F401  both fill timm's registry
from acmix_nas.costs.registry import COSTS
from acmix_nas.operators import OPERATORS
from acmix_nas.strategies.base import STRATEGIES
from acmix_nas.training.config import DATA, TASKS, DataConfig
from acmix_nas.training.images import ImageSet, Reader, read_digits
from acmix_nas.util.registry import Registry, load_group

OUTSIDE = Path(__file__).parent / "plugins" / "acmix_outside"
REGISTRIES: tuple[Registry[Any], ...] = (OPERATORS, STRATEGIES, COSTS, TASKS, DATA)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def signals_as_in_a_terminal() -> Iterator[None]:
    """Let signals end the process, also where nohup or a background job has told it to ignore them."""
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL,
    }  # fmt: skip
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a third of the digits, so that an epoch has three steps of 128 images: 360, with 120 to validate and to test."""

    def read(config: DataConfig) -> ImageSet:
        whole = read_digits.read(config)
        return ImageSet({"train": whole.parts["train"].subset(range(600))}, whole.class_names)

    monkeypatch.setitem(DATA._registered, "digits", Reader(read, small=True))


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Act as if the package under tests/plugins were installed, here and in the processes that a test starts."""
    config = configparser.ConfigParser()
    config.read(OUTSIDE / "setup.cfg")
    name, version = config["metadata"]["name"], config["metadata"]["version"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"{OUTSIDE.name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(f"{OUTSIDE.name}\n")
    groups = config["options.entry_points"].items()
    (info / "entry_points.txt").write_text("".join(f"[{group}]{entries}\n" for group, entries in groups))
    path = [str(OUTSIDE), str(site)]
    for folder in path:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]))
    for module in [module for module in sys.modules if module.partition(".")[0] == OUTSIDE.name]:
        if module != f"{OUTSIDE.name}.pebble":  # timm forgets no network, and warns of a second one of the same name
            monkeypatch.delitem(sys.modules, module)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    for cached in (Registry._declared, load_group):
        cached.cache_clear()
    yield
    for cached in (Registry._declared, load_group):
        cached.cache_clear()
