"""The wheel holds the package, and nothing whose name could shadow a user's own folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "build", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"acmix_nas"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "acmix_nas").rglob("*.py")}
    modules |= {f"acmix_nas/{path.relative_to(ROOT).as_posix()}" for folder in ("search_spaces", "strategies")
                for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    modules |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "acmix_nas").rglob("*.[ch]")}
    assert modules <= set(names)
