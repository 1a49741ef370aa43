"""What trials wrote is read back, best first; experiments are found by id or folder; NNI's page finds TensorBoard's logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acmix_nas.nnictl.results import find_experiment, link_for_web_page, read_results
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_document


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep NNI's list of experiments out of the user's home folder while tests run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value)


def result(folder: Path, metric: float, /, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "trial": folder.name,
        "sequence": 0,
        "parameters": {},
        "metric": metric,
        "seconds": 1.5,
    }
    write_document(folder / "result.json", "result", {**content, "architecture": "architecture.json", **changes})


def test_results_come_best_first_and_nan_last(tmp_path: Path) -> None:
    for number, metric in enumerate([0.5, float("nan"), 0.9, -float("inf")]):
        result(tmp_path / "environments" / "local-env" / "trials" / str(number), metric)
    results = read_results(tmp_path)
    assert [result.trial for result in results] == ["2", "0", "3", "1"]
    assert results[0].architecture == results[0].folder / "architecture.json"


def test_a_plain_run_folder_holds_one_result(tmp_path: Path) -> None:
    result(tmp_path, 0.5)
    assert [result.folder for result in read_results(tmp_path)] == [tmp_path]


def test_the_finalists_of_a_search_are_no_trials(tmp_path: Path) -> None:
    result(tmp_path / "trials" / "one", 0.5)
    (tmp_path / "trials" / "one" / "search.json").write_text("{}")
    finalist = tmp_path / "trials" / "one" / "race" / "1"
    finalist.mkdir(parents=True)
    (finalist / "result.json").write_text('{"val_accuracy": 0.5}')
    assert [one.folder.name for one in read_results(tmp_path)] == ["one"]
    result(tmp_path / "race" / "named-like-one", 0.6)
    assert len(read_results(tmp_path)) == 2


def test_no_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result\.json"):
        read_results(tmp_path)


@pytest.mark.parametrize("changes", [{"metric": "high"}, {"metric": True}, {"parameters": []}, {"architecture": None}])
def test_a_corrupt_result_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    result(tmp_path / "one", 0.5, **changes)
    with pytest.raises(UserError, match=rf"one/result\.json.*{next(iter(changes))}") as error:
        read_results(tmp_path)
    assert one_line(error)


def test_half_a_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"metric": 0.')
    with pytest.raises(UserError, match=r"result\.json.*not JSON"):
        read_results(tmp_path)


def test_experiments_are_found_by_id_and_by_folder(home: Path) -> None:
    for folder in ("nni-experiments/abc", "elsewhere/def"):
        (home / folder).mkdir(parents=True)
    (home / "nni-experiments" / ".experiment").write_text(json.dumps({"def": {"logDir": str(home / "elsewhere")}}))
    assert find_experiment("abc") == home / "nni-experiments" / "abc"
    assert find_experiment("def") == find_experiment(home / "elsewhere" / "def") == home / "elsewhere" / "def"
    with pytest.raises(UserError, match=r"'xyz'; the experiments are: abc, def$"):
        find_experiment("xyz")


@pytest.mark.parametrize("pressed", [False, True])
def test_the_button_of_the_web_page_finds_the_log(tmp_path: Path, pressed: bool) -> None:
    output = tmp_path / "environments" / "local-env" / "trials" / "abc"
    output.mkdir(parents=True)
    button = tmp_path / "trials" / "abc" / "output" / "tensorboard"
    if pressed:
        button.mkdir(parents=True)
    for _ in range(2):
        link_for_web_page(output)
    (output / "tensorboard" / "events").touch()
    assert [path.name for path in button.iterdir()] == ["events"]


def test_no_link_is_made_outside_of_nnis_layout(tmp_path: Path) -> None:
    link_for_web_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
