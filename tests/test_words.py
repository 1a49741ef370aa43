"""Every command and every line of Python in the README and in docs runs as it is written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from acmix_nas.cli.main import app
from tests import test_docs
from tests.pages import OURS, PAGES, README, ROOT, SHELL, Block, Reader, assert_shown, blocks_of, make_photos, shell
from tests.small import PATIENCE

EXPERIMENTS = ROOT / "experiments"
# Pages whose reader has a folder of images already.
WITH_PHOTOS = (ROOT / "docs" / "results" / "paper.md",)
WITH_BLOCKS = [page for page in (README, *PAGES) if blocks_of(page)]
# The others search and train for longer.
QUICK = [
    page for page in WITH_BLOCKS if page == README or page.parent.name == "extending" or page.stem in ("install", "first-hour")
]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reader:
    """Return a user in a folder with the experiments of the repository."""
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    return Reader(tmp_path, monkeypatch, capsys)


def read(reader: Reader, page: Path, slow: bool = False) -> None:
    if page in WITH_PHOTOS:
        make_photos(reader.folder / "photos")
    number = sum(1 for _ in reader.read(page, slow))
    assert number == sum(block.mark == "" or (slow and block.mark == "slow") for block in blocks_of(page))


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("page", QUICK, ids=named)
def test_a_page_runs(page: Path, reader: Reader) -> None:
    """As it is written, on fewer digits."""
    read(reader, page)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_a_page_runs_as_it_is_written(page: Path, reader: Reader) -> None:
    read(reader, page, slow=True)


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_what_a_page_says_can_be_read(page: Path) -> None:
    """Whether or not it runs here: options exist, and Python is Python."""
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.text, named(page), "exec")
        for command in block.commands if block.language == "sh" else ():
            if command.startswith(OURS) and not SHELL.search(command):
                app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)


def test_what_does_not_run_is_little_and_has_a_reason() -> None:
    blocks = [block for page in WITH_BLOCKS for block in blocks_of(page)]
    assert all(block.reason for block in blocks if block.mark == "not run")
    marks = Counter(block.mark for block in blocks)
    assert marks["not run"] + marks["slow"] <= marks[""], marks


def test_the_readme_is_short_and_begins_with_a_search() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 200
    python = [block for block in blocks_of(README) if block.language == "python"]
    assert "acmix_nas.search(" in python[0].text
    assert python[0].line < 60
    assert text.index("make demo") < text.index("make test") < text.index("acmix_nas.search(")


@pytest.mark.parametrize(
    "check",
    [
        test_docs.test_links_lead_somewhere, test_docs.test_files_that_are_named_exist, test_docs.test_sentences_are_short,
        test_docs.test_words_are_plain,
    ],
)  # fmt: skip
def test_the_readme_reads_as_docs_do(check: Callable[[Path], None]) -> None:
    check(README)


def test_marks_and_outputs_are_honoured(reader: Reader, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 2\n```\n\n<!-- slow -->\n```sh\nfalse\n```\n\n<!-- not run: it fails -->\n```sh\nfalse\n```\n\n"
        "```python\nprint('conv', x)\n```\n\n```text\nacmix_local 3.5\n```\n\n"
        "```sh\n# a comment\necho a \\\n  b  # another\nacmix-nas --version\n```\n"
    )  # fmt: skip
    assert [(block.mark, block.reason) for block in blocks_of(page)][1:3] == [("slow", ""), ("not run", "it fails")]
    (_, silent), (_, said), (last, version) = reader.read(page)
    assert (silent, said) == ("", "conv 2\n")
    assert last.commands == ["echo a    b", "acmix-nas --version"]
    assert re.fullmatch(r"a b\n\d+\.\d+\.\d+\n", version)
    with pytest.raises(AssertionError, match="false"):
        list(reader.read(page, slow=True))


@pytest.mark.parametrize("said", ["network conv", "slot 3 conv", ""])
def test_an_output_of_another_form_is_refused(said: str) -> None:
    block = Block("sh", "", "", "", shown="slot 2 local 0.5\n…\n", line=1)
    assert_shown(block, "some more\nslot   1 │ acmix_local │ 12\n")
    with pytest.raises(AssertionError, match="line 1: 'slot 0 operator 0' is not in"):
        assert_shown(block, said)


@pytest.mark.parametrize("text", ["<!-- slow -->\n\n```sh\ntrue\n```\n", "```sh\ntrue\n"])
def test_a_mark_or_a_fence_by_itself_is_a_mistake(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=r"page\.md"):
        blocks_of(page)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["digits-darts", "digits-evolution"])
def test_experiments_on_digits(config: str, reader: Reader) -> None:
    """The configs as they are, minutes each, and what they find."""
    shell(f"acmix-nas experiment experiments/{config}.yml --working-directory runs/nni", reader.folder)
    shell("acmix-nas export runs/nni/_latest --top 3 --output runs/best", reader.folder)
    assert len(list((reader.folder / "runs" / "best").glob("architecture-*.json"))) == 3


@pytest.mark.slow
def test_an_assessment_of_ones_own_space(reader: Reader) -> None:
    """The command of docs on a smaller search and a smaller sample; as it stands it takes hours."""
    page = ROOT / "docs" / "results" / "cued.md"
    (command,) = (line for block in blocks_of(page) for line in block.commands if "assess --space runs/search" in line)
    reader.command("acmix-nas search --backbone cued_net --slots blocks.3.slot --epochs 3 --race-epochs 2 --output runs/search")
    assert "regret" in reader.command(command.replace("--sample 20", "--sample 3"))
    assert (reader.folder / "mine" / "assessment.md").exists()


def test_queries_of_the_table(reader: Reader) -> None:
    """The command of docs with fewer runs."""
    page = ROOT / "docs" / "results" / "cued.md"
    (command,) = (line for block in blocks_of(page) for line in block.commands if line.startswith("acmix-nas queries"))
    assert "EvolutionTuner" in reader.command(command.replace("--runs 100", "--runs 2"))
    assert (reader.folder / "queries.md").exists()


@pytest.mark.slow
def test_nnictl_by_itself(reader: Reader) -> None:
    """`nnictl create` as the head of a config has it (on a port that is free), until the experiment is done."""
    said = shell("nnictl create --config experiments/digits-darts.yml --port 18080", reader.folder)
    experiment = re.search(r"Experiment ID: (\w+)", re.sub(r"\x1b\[\d+m", "", said))  # nnictl prints colours
    assert experiment, said
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(3)
            with urllib.request.urlopen("http://localhost:18080/api/v1/nni/trial-jobs") as answer:
                jobs = [job["status"] for job in json.load(answer)]
            assert set(jobs) <= {"WAITING", "RUNNING", "SUCCEEDED"}
            if jobs.count("SUCCEEDED") == 4:
                break
        else:
            raise AssertionError(jobs)
    finally:
        shell(f"nnictl stop {experiment[1]}", reader.folder)
    assert shell(f"acmix-nas export {experiment[1]} --output runs/by-id", reader.folder)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """`make demo` in a fresh clone with nothing installed, twice: the second run touches nothing of the first."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    clone = tmp_path / "clone"
    assert "TensorBoard:" in shell("make demo", clone)
    first = {file: file.stat().st_mtime_ns for file in (clone / "runs" / "demo-1").rglob("*") if file.is_file()}
    shell("make demo", clone)
    assert (clone / "runs" / "demo-2" / "profile" / "profile.md").exists()
    assert all(file.stat().st_mtime_ns == when for file, when in first.items())


def test_every_config_says_how_to_run_it() -> None:
    for config in EXPERIMENTS.glob("*.yml"):
        text = config.read_text()
        head = text[: text.index("experimentName")]
        assert "reaches:" in head
        assert "costs:" in head
        assert "TODO" not in head
        assert f"nnictl create --config experiments/{config.name}" in head
        assert yaml.safe_load(text)["trialConcurrency"] == 1
