"""How results reach the disk: whole or not at all, never over something else, and saying where they came from."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from acmix_nas.util.errors import UserError

__all__ = ["command_line", "new_folder", "provenance", "read_json", "save_tensors", "unused", "write_json", "write_text"]

PACKAGES = ("acmix-nas", "nni", "numpy", "pytorch-lightning", "timm", "torch")


def command_line() -> str:
    """The command that is running, as a user would type it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" or program.suffix == ".py":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        first = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {program.name}"
    else:
        first = program.name
    return shlex.join(shlex.split(first) + sys.argv[1:])


def provenance() -> dict[str, Any]:
    """Which command made an artefact, when, and with which versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # NNI, for one, need not be installed where a network is retrained
    return {
        "made_by": command_line(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
    }


def write_text(path: Path, text: str) -> Path:
    """Write a file under a temporary name and rename it: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON; what `provenance` says belongs first in the content."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: where there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{what}: no file {str(path)!r}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{what} {str(path)!r} is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{what} {str(path)!r} must hold a JSON object; it holds a {type(content).__name__}")
    return content


def unused(*paths: Path) -> None:
    """Nothing is overwritten.

    Raises:
        UserError: naming the first that exists.
    """
    for path in paths:
        if path.exists():
            raise UserError(f"{str(path)!r} exists already, and nothing is overwritten; choose another place")


def save_tensors(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a state dict, which `torch.load` reads back with `weights_only`."""
    import torch  # here, since the command line shows its help without PyTorch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(dict(state), temporary)
    temporary.replace(path)
    return path


def new_folder(parent: Path, name: str) -> Path:
    """A new folder parent/name-1, or -2, …: the first that does not exist yet. Nothing old is touched."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
