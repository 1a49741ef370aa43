"""What is registered is found, named, and told where it comes from."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from acmix_nas.util import registry
from acmix_nas.util.errors import UserError
from acmix_nas.util.registry import Registry


def first() -> None:
    """Stand for a thing."""


def second() -> None:
    """Stand for another."""


def test_a_registered_thing_is_found_by_its_name() -> None:
    things = Registry[object]("thing", "acmix_nas.none")
    assert things.register("first")(first) is first
    assert things.get("first") is first
    assert things.names() == ["first"]
    assert "first" in things
    assert "second" not in things


def test_an_unknown_name_is_told_of_those_there_are() -> None:
    things = Registry[object]("thing", "acmix_nas.none")
    things.register("first")(first)
    with pytest.raises(UserError, match=r"thing must be one of first; got 'third'"):
        things.get("third")


def test_a_name_belongs_to_one_thing() -> None:
    things = Registry[object]("thing", "acmix_nas.none")
    things.register("one")(first)
    things.register("one")(first)
    with pytest.raises(UserError, match="'one' is registered already"):
        things.register("one")(second)


def test_an_entry_point_is_imported_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        EntryPoint("path", "pathlib:Path", "acmix_nas.none"),
        EntryPoint("broken", "no_such_module:thing", "acmix_nas.none"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in declared if e.group == group])
    things = Registry[object]("thing", "acmix_nas.none")
    assert things.names() == ["path", "broken"]
    assert things.get("path").__name__ == "Path"  # type: ignore[attr-defined]


def test_a_name_that_another_package_declares_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("path", "pathlib:Path", group)])
    things = Registry[object]("thing", "acmix_nas.none")
    with pytest.raises(UserError, match="thing 'path' is registered already, by pathlib; choose another name"):
        things.register("path")(first)


def test_the_origin_is_a_distribution_where_one_is_installed() -> None:
    things = Registry[object]("thing", "acmix_nas.none")
    things.register("registry")(Registry)
    things.register("mine")(first)
    assert things.origin("registry").startswith("acmix-nas ")
    assert things.origin("mine") == __name__
    assert things.origins(["registry", "mine", "none"]) == {"mine": __name__}


def test_what_is_declared_alone_is_registered_as_by_a_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(Registry[object]):
        def register(self, name: str) -> Any:
            seen.append(name)
            return super().register(name)

    seen: list[str] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("path", "pathlib:Path", group)])
    Named("thing", "acmix_nas.none").get("path")
    assert seen == ["path"]


def test_a_thing_has_one_name() -> None:
    things = Registry[object]("thing", "acmix_nas.none")
    things.register("one")(first)
    with pytest.raises(UserError, match="thing 'two' is 'one' already; derive a class for a second name"):
        things.register("two")(first)


def test_two_packages_with_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [EntryPoint("path", "pathlib:Path", "group"), EntryPoint("path", "zipfile:Path", "group")]
    monkeypatch.setattr(registry, "entry_points", lambda **_: both)
    with pytest.raises(UserError, match="thing 'path' is declared by pathlib:Path and zipfile:Path; uninstall one of them"):
        Registry[object]("thing", "group").get("path")
    assert Registry[object]("thing", "group").names() == ["path"]  # whoever does not ask for it is not disturbed


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_of_ours_stays_ours(order: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    both = [EntryPoint("it", "acmix_nas.util.registry:Registry", "group"), EntryPoint("it", "zipfile:Path", "group")][::order]
    monkeypatch.setattr(registry, "entry_points", lambda **_: both)
    assert Registry[object]("thing", "group").get("it") is Registry
    assert "thing 'it' of zipfile:Path is left out: the name is ours" in caplog.text


def test_what_cannot_be_imported_harms_nobody_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    declared = [EntryPoint("path", "pathlib:Path", "group"), EntryPoint("broken", "no_such_module:thing", "group")]
    monkeypatch.setattr(registry, "entry_points", lambda **_: declared)
    things = Registry[object]("thing", "group")
    assert [name for name, _ in things.working()] == ["path"]
    with pytest.raises(UserError, match="declares 'broken' as no_such_module:thing, which cannot be imported: No module named"):
        things.get("broken")
    registry.load_group.cache_clear()
    registry.load_group("group")
    registry.load_group.cache_clear()
    assert caplog.text.count("which cannot be imported") == 2
