"""Options of the command line come from dataclasses: names, types, defaults, help, and what is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from acmix_nas.classification import Recipe
from acmix_nas.config import SearchConfig
from acmix_nas.data import DataConfig
from acmix_nas.errors import UserError
from acmix_nas.options import _fields, _help, fill, from_parameters, options, pairs


@dataclass(frozen=True)
class Group:
    """An example.

    Args:
        number: how many, over
            two lines.
        words: some words.
        pair: two numbers.
        heads: of the slots.
        table: more of it.
        flag: on or off.
    """

    number: int = 3
    words: Sequence[str] = ("a", "b")
    pair: tuple[float, float] | None = None
    heads: int | Mapping[str, int] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    flag: bool = False


def typed(*arguments: str) -> tuple[Any, str]:
    application = typer.Typer(pretty_exceptions_enable=False)
    seen: list[Any] = []

    @application.command()
    @options(Group)
    def command(group: Group, name: str = "x") -> None:
        seen.extend((group, name))

    result = CliRunner().invoke(application, list(arguments))
    if isinstance(result.exception, UserError):
        raise result.exception
    return (seen[0] if seen else None), result.output


def test_nothing_typed_gives_the_defaults() -> None:
    assert typed()[0] == Group()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--number", "5"], Group(number=5)),
        (["--words", "c, d"], Group(words=("c", "d"))),
        (["--pair", "0.5,1"], Group(pair=(0.5, 1.0))),
        (["--heads", "8"], Group(heads=8)),
        (["--heads", "layer1.*=2,*=4"], Group(heads={"layer1.*": 2, "*": 4})),
        (["--table", "channels=[8, 16]", "--table", "name=x"], Group(table={"channels": [8, 16], "name": "x"})),
        (["--flag"], Group(flag=True)),
    ],
)
def test_what_is_typed_fills_the_group(arguments: list[str], expected: Group) -> None:
    assert typed(*arguments)[0] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "many"], "--heads: must be a number, or globs .* got 'many'"),
        (["--table", "channels"], "--table must be key=value, as in .* got 'channels'"),
        (["--pair", "0.5,one"], "--pair: could not convert string to float: 'one'"),
    ],
)
def test_what_cannot_be_read_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        typed(*arguments)


def test_help_comes_from_the_docstring() -> None:
    text = " ".join(typed("--help")[1].replace("│", " ").split())
    assert "how many, over two lines." in text
    assert "[default: 3]" in text


@pytest.mark.parametrize("group", [SearchConfig, DataConfig, Recipe])
def test_every_option_of_the_commands_has_its_help(group: type) -> None:
    assert [name for name, f in _fields(group) if not _help(group, f.name)] == []


def test_parameters_of_a_trial_replace_options() -> None:
    search, recipe = from_parameters({"penalty": 0.5, "seed": 7, "candidates": "conv,local"}, SearchConfig(), Recipe())
    assert (search.penalty, search.candidates, recipe.seed) == (0.5, ("conv", "local"), 7)


def test_an_unknown_parameter_of_a_trial_is_named() -> None:
    with pytest.raises(UserError, match=r"parameter 'penality' is no option of this trial; it has .*penalty"):
        from_parameters({"penality": 0.5}, SearchConfig())


def test_pairs_read_json_where_they_can() -> None:
    assert pairs("--x", ["a=1", "b=[1,2]", "c=text", "d=e=f"]) == {"a": 1, "b": [1, 2], "c": "text", "d": "e=f"}


def test_fill_takes_values_by_the_names_of_options() -> None:
    assert fill(DataConfig, {"data": "digits", "image_size": 24}) == DataConfig("digits", image_size=24)
