"""A file of each kind, written by version 1 of its format, loads for ever; one of another kind or a newer version is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from acmix_nas.research.benchmark.assess import Outcome
from acmix_nas.training.loop import Fitted
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document

FILES = Path(__file__).parent / "files"


def fitted(file: Path) -> Fitted:
    return Fitted.read(read_document(file, "result"))


def outcomes(file: Path) -> list[Outcome]:
    return [Outcome.of_json(one) for one in read_document(file, "assessment")["outcomes"]]


READ: Mapping[str, tuple[Callable[[Path], Any], Callable[[Any], Any], Any]] = {}


@pytest.mark.parametrize("name", READ)
def test_it_loads(name: str) -> None:
    read, value, expected = READ[name]
    assert value(read(FILES / name)) == expected


def test_every_file_is_read() -> None:
    assert {str(file.relative_to(FILES)) for file in FILES.rglob("*.*")} == READ.keys()


def changed(file: Path, folder: Path, old: str, new: str) -> Path:
    """Return a copy of a file, under its own name, in which a line is another."""
    text, count = re.subn(old, new, file.read_text(), count=1)
    assert count == 1
    copy = folder / file.name
    copy.write_text(text)
    return copy


@pytest.mark.parametrize("name", READ)
def test_a_newer_version_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, *_ = READ[name]
    file = changed(FILES / name, tmp_path, r'(version"?:? )1\b', r"\g<1>2")
    with pytest.raises(UserError, match=r"is of version 2; this package reads versions up to 1: update it") as caught:
        read(file)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("name", READ)
def test_another_kind_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, *_ = READ[name]
    file = changed(FILES / name, tmp_path, r"(acmix-nas )[a-z ]+\b(?=\"|, version|\n)", r"\g<1>recipe")
    with pytest.raises(UserError, match=r"is of format 'acmix-nas recipe'; it is no [a-z ]+ file: give one") as caught:
        read(file)
    assert str(caught.value).count("\n") == 0
