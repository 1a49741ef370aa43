"""The wheel holds the package, and nothing whose name could shadow a user's own folders."""

from __future__ import annotations

import email
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".venv", ".git", "runs", "build", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(folder / "source"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"acmix_nas"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "acmix_nas").rglob("*.py")}
    modules |= {f"acmix_nas/{path.relative_to(ROOT).as_posix()}" for folder in ("search_spaces", "strategies")
                for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    modules |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "acmix_nas").rglob("*.[ch]")}
    data = {"acmix_nas/py.typed", "acmix_nas/research/paper.json", "acmix_nas/research/benchmark/cued.json"}
    assert modules | data <= set(names)


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("Linux", "x86_64", True), ("Darwin", "x86_64", True), ("Windows", "AMD64", True),
        ("Linux", "aarch64", False), ("Darwin", "arm64", False), ("Windows", "ARM64", False),
    ],
)  # fmt: skip
def test_nni_is_required_where_it_has_a_wheel(wheel: zipfile.ZipFile, system: str, machine: str, wanted: bool) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = map(Requirement, email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist", []))
    (marker,) = (requirement.marker for requirement in required if requirement.name == "nni")
    assert marker is not None
    assert marker.evaluate({"platform_system": system, "platform_machine": machine}) == wanted


def test_the_version_loads_nothing() -> None:
    code = "import sys, acmix_nas; print(acmix_nas.__version__); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == metadata.version("acmix-nas")


def test_the_package_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["acmix-nas", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("acmix_nas", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out == f"{metadata.version('acmix-nas')}\n"


def test_the_versions_are_tried_with_tests_that_exist() -> None:
    named = re.findall(r"tests/\S+\.py", (ROOT / "scripts" / "versions.sh").read_text())
    assert named
    assert all((ROOT / name).exists() for name in named)
