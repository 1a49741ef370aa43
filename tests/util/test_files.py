"""Files: whole or not at all, never over something else, and saying where they came from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acmix_nas.util.errors import UserError
from acmix_nas.util.files import command_line, held, new_folder, provenance, read_json, save_tensors, write_json, write_text


def test_a_new_folder_is_new(tmp_path: Path) -> None:
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    assert new_folder(tmp_path / "runs", "demo").name == "demo-2"
    assert new_folder(tmp_path / "runs", "demo").name == "demo-3"
    assert new_folder(tmp_path / "runs", "search").name == "search-1"


def test_what_is_written_is_whole_and_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "file.txt", "α")
    write_json(tmp_path / "a" / "file.json", {"b": [1], "a": "β"})
    save_tensors(tmp_path / "a" / "file.pt", {"w": torch.ones(2)})
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["file.json", "file.pt", "file.txt"]
    assert list(read_json(tmp_path / "a" / "file.json", "it")) == ["b", "a"]
    assert torch.equal(torch.load(tmp_path / "a" / "file.pt", weights_only=True)["w"], torch.ones(2))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"new": object()})
    assert read_json(tmp_path / "file.json", "it") == {"old": 1}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b""])
def test_what_is_no_json_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^thing .*file\.json"):
        read_json(tmp_path / "file.json", "thing")
    with pytest.raises(UserError, match="thing: no file"):
        read_json(tmp_path, "thing")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["/usr/bin/acmix-nas", "search", "--slots", "layer*"], "acmix-nas search --slots 'layer*'"),
        (["/home/x/script.py", "1"], "python script.py 1"),
    ],
)
def test_the_command_is_as_a_person_types_it(typed: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", typed)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == expected


def test_provenance_names_versions() -> None:
    assert provenance()["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_folder_is_held_by_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder):
        with pytest.raises(UserError, match="run' is in use by another run; wait for its end, or take another"), held(folder):
            pass
        (folder / "kept").touch()
    with held(folder):
        pass
    assert [file.name for file in folder.iterdir()] == ["kept"]


def test_a_folder_that_was_made_for_a_run_goes_where_nothing_was_written(tmp_path: Path) -> None:
    with held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    with held(tmp_path):
        pass
    assert tmp_path.exists()
