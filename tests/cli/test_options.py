"""Options of the command line come from dataclasses: names, types, defaults, help, and what is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from acmix_nas.cli.options import BackboneArgs, _fields, _help, fill, from_parameters, names, options, pairs
from acmix_nas.cli.options import typed as given
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError


@dataclass(frozen=True)
class Inner:
    """More of it.

    Args:
        depth: how deep.
    """

    depth: int = 1


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
        limits: of several things.
    """

    number: int = 3
    words: Sequence[str] = ("a", "b")
    pair: tuple[float, float] | None = None
    heads: int | Mapping[str, int] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    flag: bool = False
    limits: Sequence[str] = field(default=(), metadata={"repeated": True})
    inner: Inner = field(default_factory=Inner)


def typed(*arguments: str) -> tuple[Any, str]:
    application = typer.Typer(pretty_exceptions_enable=False)
    seen: list[Any] = []

    @application.command()
    @options(Group)
    def command(ctx: typer.Context, group: Group, backbone_args: BackboneArgs = None) -> None:
        seen.extend((group, pairs("--backbone-args", backbone_args or []), given(ctx, Group)))

    result = CliRunner().invoke(application, list(arguments))
    if isinstance(result.exception, UserError):
        raise result.exception
    return (seen if seen else [None]), result.output


def of_file(tmp_path: Path, text: str, *arguments: str) -> list[Any]:
    (tmp_path / "recipe.yml").write_text(text)
    return typed("--recipe", str(tmp_path / "recipe.yml"), *arguments)[0]


def test_nothing_typed_gives_the_defaults() -> None:
    assert typed()[0][:2] == [Group(), {}]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--number", "5"], Group(number=5)),
        (["--words", "c, d"], Group(words=("c", "d"))),
        (["--words", "c", "--words", "d"], Group(words=("d",))),
        (["--limits", "a=1,b=2", "--limits", "b=3"], Group(limits=("a=1", "b=3"))),
        (["--depth", "7"], Group(inner=Inner(7))),
        (["--pair", "0.5,1"], Group(pair=(0.5, 1.0))),
        (["--heads", "8"], Group(heads=8)),
        (["--heads", "layer1.*=2,*=4"], Group(heads={"layer1.*": 2, "*": 4})),
        (["--table", "channels=[8, 16]", "--table", "name=x"], Group(table={"channels": [8, 16], "name": "x"})),
        (["--flag"], Group(flag=True)),
    ],
)
def test_what_is_typed_fills_the_group(arguments: list[str], expected: Group) -> None:
    assert typed(*arguments)[0][0] == expected


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
    assert [name for name, owner, f in _fields(group) if not _help(owner, f.name)] == []


def test_parameters_of_a_trial_replace_options() -> None:
    (search,) = from_parameters({"samples": 5, "seed": 7, "candidates": "conv,local"}, SearchConfig())
    assert (search.samples, search.candidates, search.recipe.seed) == (5, ("conv", "local"), 7)


def test_settings_are_checked_against_the_recipe_that_is_given_with_them() -> None:
    (search,) = from_parameters({"epochs": 40, "arc_warmup": 30}, SearchConfig())
    assert search == SearchConfig(arc_warmup=30, recipe=Recipe(epochs=40))
    assert fill(SearchConfig, {"epochs": 40, "arc_warmup": 30}) == search


def test_an_unknown_parameter_of_a_trial_is_named() -> None:
    with pytest.raises(UserError, match=r"parameter 'penality' is no option of this trial; it has .*penalty"):
        from_parameters({"penality": 0.5}, SearchConfig())


def test_names_are_those_of_the_options() -> None:
    assert names(Group) == {"number", "words", "pair", "heads", "table", "flag", "limits", "depth"}
    assert {"data", "data_root", "lr"} < names(DataConfig, Recipe)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("number: 5", Group(number=5)),
        ("words: [c, d]", Group(words=("c", "d"))),
        ("limits: [a=1, b=2]", Group(limits=("a=1", "b=2"))),
        ("pair: [0.5, 1]", Group(pair=(0.5, 1.0))),
        ("pair: [5e-1, 1]", Group(pair=(0.5, 1.0))),
        ("heads: 8", Group(heads=8)),
        ("heads: layer1.*=2,*=4", Group(heads={"layer1.*": 2, "*": 4})),
        ("table: {channels: [8, 16], name: x, depth: 3}", Group(table={"channels": [8, 16], "name": "x", "depth": 3})),
        ("flag: true", Group(flag=True)),
    ],
)
def test_a_recipe_stands_over_the_defaults(tmp_path: Path, text: str, expected: Group) -> None:
    assert of_file(tmp_path, text)[0] == expected


def test_what_is_typed_stands_over_a_recipe(tmp_path: Path) -> None:
    group, arguments, said = of_file(tmp_path, "number: 5\nflag: true\npair: [0, 1]", "--number", "3", "--no-flag")
    assert group == Group(number=3, flag=False, pair=(0.0, 1.0))
    assert arguments == {}
    assert said == {"number", "flag", "pair"}  # a default that was typed was chosen


def test_pairs_that_are_typed_leave_the_other_keys_of_a_recipe(tmp_path: Path) -> None:
    text = "table: {a: 1, b: 2}\nbackbone-args: {drop_path_rate: 0.2, depths: [2, 2]}"
    group, arguments, _ = of_file(tmp_path, text, "--table", "b=3", "--backbone-args", "depths=[1,1]")
    assert group.table == {"a": 1, "b": 3}
    assert arguments == {"drop_path_rate": 0.2, "depths": [1, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lerning_rate: 1",
            "'lerning_rate' is no option of this command; it has backbone_args, depth, flag, heads, limits, number",
        ),
        ("number: many", "number must be a whole number; got 'many'"),
        ("number: true", "number must be a whole number; got True"),
        ("number: 2.5", "number must be a whole number; got 2.5"),
        ("flag: 1", "flag must be true or false; got 1"),
        ("pair: 0.5", "pair must be a list of numbers; got 0.5"),
        ("pair: [a, 1]", "pair must be a list of numbers; got"),
        ("pair: [true, 1]", "pair must be a list of numbers; got"),
        ("words: [1]", "words must be a list of texts"),
        ("table: [a]", "table must be a mapping"),
        ("backbone_args: a=1", "backbone_args must be a mapping; got 'a=1'"),
        ("heads:", "heads must be a text; got None"),
        ("number: 1\nnumber : 2\nNumber: 3", "'Number' is no option"),
        ("backbone_args: {}\nbackbone-args: {}", "'backbone_args' is there twice"),
        ("- number", "must map options to values, as in lr: 0.1; it holds a list"),
        ("number: [1", "is not YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        of_file(tmp_path, text)
    assert str(error.value).startswith(f"recipe {str(tmp_path / 'recipe.yml')!r}")
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(UserError, match=r"^recipe 'none\.yml': no such file$"):
        typed("--recipe", "none.yml")


def test_pairs_read_json_where_they_can() -> None:
    assert pairs("--x", ["a=1", "b=[1,2]", "c=text", "d=e=f"]) == {"a": 1, "b": [1, 2], "c": "text", "d": "e=f"}


def test_fill_takes_values_by_the_names_of_options() -> None:
    assert fill(DataConfig, {"data": "digits", "image_size": 24}) == DataConfig("digits", image_size=24)
