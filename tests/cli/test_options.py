"""Options of commands come from dataclasses: what is typed, what a config file says, what help and --print-config show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from cyclopts import CycloptsError

from acmix_nas.cli.main import app, application
from acmix_nas.cli.options import Given, Inherited, command
from acmix_nas.util.errors import UserError


@dataclass(frozen=True)
class Inner:
    """More of it.

    Args:
        depth: how deep.
    """

    PANEL: ClassVar[str] = "inside"

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
        watch: off or on.
        limits: of several things.
    """

    PANEL: ClassVar[str] = "outside"

    number: int = 3
    words: Sequence[str] = ("a", "b")
    pair: tuple[float, float] | None = None
    heads: int | Mapping[str, int] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    flag: bool = False
    watch: bool = True
    limits: Sequence[str] = ()
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Other:
    """Another one.

    Args:
        name: what it is called.
        size: how large.
    """

    name: str = field(default="x", metadata={"option": "other"})
    size: int = 5


SEEN: list[Any] = []


@command(shown=("number", "table", "output"))
def single(group: Group, given: Given, *, output: Path | None = None, more: Mapping[str, Any] = {}) -> None:
    """Do one thing.

    Args:
        output: where to write.
        more: arguments of another.
    """
    SEEN.append((group, given, output, dict(more)))


@command(shown=("number",))
def several(what: str, /, group: Group, other: Annotated[Other, Inherited(("size",), "that of the run")]) -> None:
    """Do several things."""
    SEEN.append((what, group, other))


def typed(*arguments: str, function: Any = single) -> tuple[Any, ...]:
    SEEN.clear()
    application_of(function)(arguments, exit_on_error=False, print_error=False)
    return tuple(SEEN[0])


def application_of(function: Any) -> Any:
    found = application("example", "")
    found.default(function)
    return found


def of_file(tmp_path: Path, text: str, *arguments: str, function: Any = single) -> tuple[Any, ...]:
    (tmp_path / "config.yml").write_text(text)
    return typed(*arguments, "--config", str(tmp_path / "config.yml"), function=function)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, function: Any = single) -> str:
    SEEN.clear()
    application_of(function)([*arguments, "--print-config"], exit_on_error=False, print_error=False)
    assert SEEN == []
    return capsys.readouterr().out


def test_nothing_typed_gives_the_defaults() -> None:
    assert typed() == (Group(), frozenset(), None, {})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--number", "5"], Group(number=5)),
        (["--number", "2k", "--number=4K"], Group(number=4000)),
        (["--words", "c, d"], Group(words=("c", "d"))),
        (["--words", "c", "--words", "d"], Group(words=("c", "d"))),
        (["--limits", "a=1,b=2", "--limits", "b=3"], Group(limits=("a=1", "b=3"))),
        (["--depth", "7"], Group(inner=Inner(7))),
        (["--pair", "0.5,1"], Group(pair=(0.5, 1.0))),
        (["--heads", "8"], Group(heads=8)),
        (["--heads", "layer1.*=2,*=4"], Group(heads={"layer1.*": 2, "*": 4})),
        (["--table", "channels=[8, 16]", "--table", "name=x"], Group(table={"channels": [8, 16], "name": "x"})),
        (["--flag"], Group(flag=True)),
        (["--flag", "--flag"], Group(flag=True)),
        (["--no-watch"], Group(watch=False)),
        (["--no-watch", "--watch"], Group(watch=True)),
    ],
)
def test_what_is_typed_fills_the_group(arguments: list[str], expected: Group) -> None:
    assert typed(*arguments)[0] == expected


def test_own_options_stand_beside_those_of_the_group() -> None:
    found = typed("--output", "here", "--more", "a=1", "--more", "b=x", "--number", "4")
    assert found == (Group(number=4), {"output", "more", "number"}, Path("here"), {"a": 1, "b": "x"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "many"], "^--heads must be a whole number or KEY=VALUE.* got 'many'$"),
        (["--table", "channels"], r"^--table must be KEY=VALUE, as in .* got 'channels'$"),
        (["--pair", "0.5,one"], "^--pair must be a list of numbers.* got '0.5,one'$"),
        (["--number", "x"], "^--number must be a whole number; got 'x'$"),
    ],
)
def test_what_cannot_be_read_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        typed(*arguments)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(CycloptsError) as error:
        typed("--numbr", "3")
    error.value.verbose = False
    assert "--number" in str(error.value)


def test_help_shows_few_options_and_help_all_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    application_of(single).help_print([])
    few = capsys.readouterr().out
    text = " ".join(few.replace("│", " ").split())
    assert "how many, over two lines. [default: 3]" in text
    assert "--depth" not in few
    assert "show all 11 options" in text
    application_of(single.everything).help_print([])  # type: ignore[attr-defined]
    every = capsys.readouterr().out
    assert every.index("Outside") < every.index("--number") < every.index("Inside") < every.index("--depth")
    assert "--no-watch" in every


def test_help_says_where_an_inherited_default_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    application_of(several.everything).help_print([])  # type: ignore[attr-defined]
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "how large. [default: that of the run]" in text
    assert "what it is called. [default: x]" in text


def test_a_shown_option_must_exist() -> None:
    with pytest.raises(TypeError, match="single has no options numbr"):
        command(shown=("numbr",))(single)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("number: 5", Group(number=5)),
        ("words: [c, d]", Group(words=("c", "d"))),
        ("limits: [a=1, b=2]", Group(limits=("a=1", "b=2"))),
        ("pair: [0.5, 1]", Group(pair=(0.5, 1.0))),
        ("pair: [5e-1, 1]", Group(pair=(0.5, 1.0))),
        ("pair: null", Group()),
        ("heads: 8", Group(heads=8)),
        ("heads: layer1.*=2,*=4", Group(heads={"layer1.*": 2, "*": 4})),
        ("heads: {layer1.*: 2}", Group(heads={"layer1.*": 2})),
        ("table: {channels: [8, 16], name: x, depth: 3}", Group(table={"channels": [8, 16], "name": "x", "depth": 3})),
        ("flag: true", Group(flag=True)),
        ("depth: 4", Group(inner=Inner(4))),
        ("inner: {depth: 4}\nnumber: 2", Group(number=2, inner=Inner(4))),
    ],
)
def test_a_file_stands_over_the_defaults(tmp_path: Path, text: str, expected: Group) -> None:
    assert of_file(tmp_path, text)[0] == expected


def test_a_file_may_have_a_section_for_each_group(tmp_path: Path) -> None:
    text = "group: {number: 2, inner: {depth: 4}}\nother: {name: y, size: 7}"
    expected = ("a", Group(number=2, inner=Inner(4)), Other("y", 7))
    assert of_file(tmp_path, text, "a", function=several) == expected
    assert of_file(tmp_path, "number: 2\ndepth: 4\nother: y\nsize: 7", "a", function=several) == expected


def test_what_is_typed_stands_over_a_file(tmp_path: Path) -> None:
    group, given, *_ = of_file(tmp_path, "number: 5\nflag: true\npair: [0, 1]", "--number", "3", "--no-flag")
    assert group == Group(number=3, flag=False, pair=(0.0, 1.0))
    assert given == {"number", "flag", "pair"}  # a default that was typed was chosen


def test_pairs_that_are_typed_leave_the_other_keys_of_a_file(tmp_path: Path) -> None:
    text = "table: {a: 1, b: 2}\nmore: {drop_path_rate: 0.2, depths: [2, 2]}"
    group, _, _, more = of_file(tmp_path, text, "--table", "b=3", "--more", "depths=[1,1]")
    assert group.table == {"a": 1, "b": 3}
    assert more == {"drop_path_rate": 0.2, "depths": [1, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numbre: 1", r"'numbre' is no option of this command; did you mean 'number'\?"),
        ("inner: {deepth: 1}", r"'deepth' is no option of this command; did you mean 'depth'\?"),
        ("number: many", "number must be a whole number; got 'many'"),
        ("number: 2.5", "number must be a whole number; got 2.5"),
        ("flag: 1", "flag must be true or false; got 1"),
        ("pair: 0.5", "pair must be a list of numbers, as in A,B; got 0.5"),
        ("pair: [true, 1]", "pair must be a list of numbers"),
        ("table: 3", "table must be KEY=VALUE, or a mapping; got 3"),
        ("number: null", "number must be a whole number; got None"),
        ("more: {}\n'more ': {}", "'more ' is no option"),
        ("depth: 1\ninner: {depth: 2}", "'depth' is there twice"),
        ("- number", "must map options to values, as in lr: 0.1; it holds a list"),
        ("number: [1", "is not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        of_file(tmp_path, text)
    assert str(error.value).startswith(f"config {str(tmp_path / 'config.yml')!r}")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"^config 'none\.yml': no such file$"):
        typed("--config", "none.yml")


def test_the_printed_config_reads_back_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--number", "5", "--heads", "layer1.*=2,*=4", "--table", 'a=[1,{"b": 2}]', "--words", "c", "--output", "x y"]
    text = printed(capsys, *line)
    assert all(f"{name}:" in text for name in ("number", "pair", "depth", "output", "more"))
    assert text.index("# outside") < text.index("number: 5") < text.index("# inside")
    expected, found = typed(*line), of_file(tmp_path, text)
    assert (found[0], *found[2:]) == (expected[0], *expected[2:])


def test_an_inherited_default_is_printed_as_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "a", function=several)
    assert "# size: 5\n" in text
    assert "\nother: x\n" in text
    assert "\nsize: 7\n" in printed(capsys, "a", "--size", "7", function=several)


def lines_of(*arguments: str) -> tuple[list[str], float]:
    """Return the heavy modules that a command line imports, and its seconds of computing."""
    program = """
import contextlib, io, json, sys, time
from acmix_nas.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(json.loads(sys.argv[1]))
heavy = {"torch", "timm", "pytorch_lightning", "matplotlib", "nni", "numpy", "sklearn"}
print(json.dumps([sorted(heavy & sys.modules.keys()), time.process_time()]))
"""
    done = subprocess.run([sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, check=True)
    heavy, seconds = json.loads(done.stdout)
    return heavy, seconds


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["retrain", "--help"], ["search", "--help-all"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy, seconds = lines_of(*arguments)
    assert heavy == []
    assert seconds < 2  # 0.4 s where nothing else runs


@pytest.mark.parametrize("name", ["search", "retrain"])
def test_a_beginner_sees_few_options(name: str) -> None:
    shown = [argument for argument in app[name].assemble_argument_collection() if argument.show]
    options = [argument for argument in shown if argument.name.startswith("--")]
    assert 12 <= len(options) <= 15
