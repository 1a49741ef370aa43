"""Dataclasses give settings by flat names; one reader takes them from texts, files and Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from acmix_nas.cli.shared import Devices
from acmix_nas.searching.config import SearchConfig
from acmix_nas.strategies.sampled import SinglePathSearch
from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.reading import Mismatch, read
from acmix_nas.util.registry import Registry
from acmix_nas.util.settings import flat_names, flat_values, replace_flat, settings_of

WAYS = Registry[type]("way", "acmix_nas.no_such_group")


@WAYS.register("slow")
@dataclass(frozen=True)
class Slow:
    """A way.

    Args:
        steps: how many steps.
        rate: the rate of it.
    """

    steps: int = 10
    rate: float = 0.1


@WAYS.register("fast")
@dataclass(frozen=True)
class Fast:
    """Another way.

    Args:
        rate: the rate of it.
        boost: how much faster.
    """

    rate: float = 0.5
    boost: float = 2.0


@dataclass(frozen=True)
class Inner:
    """More of it.

    Args:
        name: what it is called.
    """

    PANEL: ClassVar[str] = "inside"

    name: str = field(default="x", metadata={"option": "inner_name", "panel": "names"})
    deep: int = 1


@dataclass(frozen=True)
class Outer:
    """An example.

    Args:
        number: how many, over
            two lines until it has collapsed: then it stops.
        way: how.
    """

    number: int = 3
    way: str = "slow"
    settings: Any = field(default=None, metadata={"variants": WAYS, "by": "way"})
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", WAYS.get(self.way)())
        if self.number < 0:
            raise UserError(f"number must be 0 or more; got number={self.number}")


def test_flat_names_are_those_of_nested_fields() -> None:
    assert flat_names(Outer) == {"number", "way", "steps", "rate", "boost", "inner_name", "deep"}
    assert {"data", "data_root", "lr"} < flat_names(DataConfig, Recipe)
    assert "name" not in flat_names(DataConfig)


def test_help_and_panel_come_from_the_class() -> None:
    settings = settings_of(Outer)
    assert settings["number"].help == "how many, over two lines until it has collapsed: then it stops."
    assert (settings["deep"].panel, settings["inner_name"].panel, settings["number"].panel) == ("inside", "names", "settings")
    assert settings["inner_name"].path == ("inner", "name")


def test_an_option_of_several_variants_is_one() -> None:
    rate, boost = settings_of(Outer)["rate"], settings_of(Outer)["boost"]
    assert (rate.variants, rate.default, rate.panel) == (("slow", "fast"), {"slow": 0.1, "fast": 0.5}, "way slow, fast")
    assert (boost.variants, boost.default, boost.panel) == (("fast",), 2.0, "way fast")


def test_two_fields_of_one_flat_name_are_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="two settings are called 'number'"):
        settings_of(Outer, Outer)


@pytest.mark.parametrize("group", [SearchConfig, DataConfig, Recipe, Devices])
def test_every_setting_of_the_commands_has_its_help(group: type) -> None:
    assert [setting.name for setting in settings_of(group).values() if not setting.help] == []


def test_patience_says_the_whole_of_it() -> None:
    assert settings_of(SearchConfig)["patience"].help.endswith("0 lets it go on.")


def test_values_replace_those_of_nested_instances() -> None:
    (found,) = replace_flat({"number": "1k", "inner_name": "y", "steps": 5}, Outer())
    assert found == Outer(1000, settings=Slow(5), inner=Inner("y"))
    assert flat_values(found) == {"number": 1000, "way": "slow", "steps": 5, "rate": 0.1, "inner_name": "y", "deep": 1}


def test_another_variant_keeps_what_was_set_of_both() -> None:
    assert replace_flat({"way": "fast"}, Outer())[0].settings == Fast()
    assert replace_flat({"way": "fast"}, Outer(settings=Slow(5, 0.3)))[0].settings == Fast(rate=0.3)
    assert replace_flat({"way": "fast", "boost": 3}, Outer())[0].settings == Fast(boost=3.0)


def test_a_setting_of_another_variant_is_refused() -> None:
    with pytest.raises(UserError, match=r"^boost needs way fast; got way='slow'$"):
        replace_flat({"boost": 3}, Outer())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"numbr": 1}, r"^parameter 'numbr' is no option here; did you mean 'number'\?$"),
        ({"zzz": 1}, r"^parameter 'zzz' is no option here; there are boost, deep, inner_name, number"),
        ({"number": "many"}, r"^number must be a whole number; got 'many'$"),
        ({"number": -1}, r"^number must be 0 or more"),
        ({"way": "none"}, r"^way must be one of slow, fast; got 'none'$"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace_flat(values, Outer())


def test_settings_are_checked_against_those_given_with_them() -> None:
    assert replace_flat({"epochs": 40, "arc_warmup": 30}, SearchConfig()) == [
        SearchConfig(method=SinglePathSearch(arc_warmup=30), recipe=Recipe(epochs=40))
    ]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, "12", 12),
        (int, "2K", 2000),
        (int, 3.0, 3),
        (float, "1e-3", 1e-3),
        (float, 2, 2.0),
        (str, 7, "7"),
        (bool, True, True),
        (Path, "a/b", Path("a/b")),
        (str | None, None, None),
        (Literal["a", "b"], "b", "b"),
        (Sequence[str], "c, d", ("c", "d")),
        (tuple[float, float] | None, "0.5,1", (0.5, 1.0)),
        (tuple[float, float] | None, ["5e-1", 1], (0.5, 1.0)),
        (int | Mapping[str, int] | None, "4", 4),
        (int | Mapping[str, int] | None, "layer1.*=2,*=4", {"layer1.*": 2, "*": 4}),
        (int | Mapping[str, int] | None, {"*": 4}, {"*": 4}),
        (Mapping[str, Any], ["channels=[8, 16]", "name=x", "d=e=f"], {"channels": [8, 16], "name": "x", "d": "e=f"}),
        (Mapping[str, float | str], "macs=1e6,latency=3ms", {"macs": 1e6, "latency": "3ms"}),
        (Any, "x", "x"),
    ],
)
def test_a_value_is_read_by_its_type(kind: Any, value: Any, expected: Any) -> None:
    found = read(kind, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "many", "a whole number"),
        (int, True, "a whole number"),
        (int, 2.5, "a whole number"),
        (float, "x", "a number"),
        (float, True, "a number"),
        (bool, 1, "true or false"),
        (str, None, "a text"),
        (Path, 3, "a path"),
        (Literal["a", "b"], "c", "one of a, b"),
        (tuple[float, float], 0.5, "a list of numbers"),
        (tuple[float, float], [True, 1], "a list of numbers"),
        (Sequence[str], {"a": 1}, "a list of texts"),
        (Mapping[str, Any], "channels", "KEY=VALUE, as in channels"),
        (Mapping[str, Any], 3, "KEY=VALUE, or a mapping"),
        (int | Mapping[str, int] | None, "many", "a whole number or KEY=VALUE"),
        (int | Mapping[str, int] | None, "a=b", "a whole number or KEY=VALUE with a whole number each"),
    ],
)
def test_a_value_of_another_type_says_what_was_expected(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(Mismatch, match=message):
        read(kind, value)
