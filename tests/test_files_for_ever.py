"""A file of each kind, as version 1 of its format wrote it, loads for ever; another kind or a newer version is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix_nas.architecture import Architecture
from acmix_nas.bias import read_history
from acmix_nas.cli.main import run
from acmix_nas.deploy import latency
from acmix_nas.nnictl.results import read_results
from acmix_nas.research.benchmark import Table
from acmix_nas.research.benchmark.assess import Outcome
from acmix_nas.searching.again import read_ranking
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.loop import Fitted
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_csv, read_document

FILES = Path(__file__).parent / "files"


def document(kind: str) -> Callable[[Path], Any]:
    return partial(read_document, kind=kind)


def fitted(file: Path) -> Fitted:
    return Fitted.read(read_document(file, "result"))


def outcomes(file: Path) -> list[Outcome]:
    return [Outcome.of_json(one) for one in read_document(file, "assessment")["outcomes"]]


def config(file: Path) -> dict[str, Any]:
    """Return all options of a search under this config."""
    with redirect_stdout(io.StringIO()) as said:
        run(["search", "--config", str(file), "--print-config"])
    return dict(yaml.safe_load(said.getvalue()))


READ: Mapping[str, tuple[Callable[[Path], Any], Callable[[Any], Any], Any]] = {
    "search/architecture.json": (Architecture.load, lambda it: it.slots, {"blocks.3.slot": "acmix_global"}),
    "search/search.json": (lambda file: SearchConfig.load(file.parent), lambda it: it.race_recipe.epochs, 2),
    "search/result.json": (lambda file: read_results(file.parent), lambda it: it[0].metric, pytest.approx(0.53333, abs=1e-5)),
    "search/ranking.json": (read_ranking, lambda it: (it[0].slots["blocks.3.slot"], it[0].costs["macs"]), ("global", 634432)),
    "training/result.json": (fitted, lambda it: (it.epochs, it.test), (2, pytest.approx(0.48889, abs=1e-5))),
    "training/half-time.json": (fitted, lambda it: (it.epochs, it.test), (1, None)),
    "trial/result.json": (lambda file: read_results(file.parent), lambda it: it[0].metric, pytest.approx(0.50278, abs=1e-5)),
    "trial/history.csv": (read_history, lambda it: (it[1].operator, it[1].probability, it[1].alpha), ("global", 0.33278, None)),
    "collapse.json": (document("collapse"), lambda it: (it["epoch"], it["good"]), (3, 2)),
    "front.csv": (partial(read_csv, kind="front"), lambda it: it[1], (3, ["1", "634432.0", "0.38333333333333336", "global"])),
    "bias.csv": (partial(read_csv, kind="bias"), lambda it: it[3][1][3:7], ["acmix_global", "0.224899", "0.5", "0.5"]),
    "profile.json": (document("profile"), lambda it: it["networks"]["single_path"]["parameters"], 33216),
    "table.json": (Table.load, lambda it: (it.accuracy(("global",)), it.latencies is None), (0.68056, False)),
    "assessment.json": (outcomes, lambda it: it[0].strategy, "single_path"),
    "latency.json": (document("latency"), lambda it: it["batch"], 1),
    "latency-cache.json": (document(latency.CACHE), lambda it: len(it["milliseconds"]), 3),
    "bench-operators.json": (document("benchmark"), lambda it: it["ratios"][0]["target"], "≥ 4"),
    "config.yml": (config, lambda it: (it["backbone"], it["lr"]), ("cued_net", 1e-3)),
}
"""File → its reader, a value of what is read, and what this is."""


@pytest.mark.parametrize("name", READ)
def test_it_loads(name: str) -> None:
    read, value, expected = READ[name]
    assert value(read(FILES / name)) == expected


def test_every_file_is_read() -> None:
    assert {str(file.relative_to(FILES)) for file in FILES.rglob("*.*")} == READ.keys()


def changed(name: str, folder: Path, pattern: str, new: str) -> Path:
    """Return a copy of a file, under its own name, that says something else of itself."""
    text, count = re.subn(pattern, new, (FILES / name).read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    copy = folder / Path(name).name
    copy.write_text(text)
    return copy


@pytest.mark.parametrize("name", READ)
def test_a_newer_version_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = changed(name, tmp_path, r'(version"?:? )1\b', r"\g<1>2")
    with pytest.raises(UserError, match=r"is of version 2; this package reads versions up to 1: update it$"):
        READ[name][0](file)


@pytest.mark.parametrize("name", READ)
def test_another_kind_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = changed(name, tmp_path, r'("format": "acmix-nas |^# acmix-nas |^format: acmix-nas )[a-z ]+', r"\g<1>recipe")
    with pytest.raises(UserError, match=r"is of format 'acmix-nas recipe'; it is no [a-z ]+ file: give one that .* wrote$"):
        READ[name][0](file)
