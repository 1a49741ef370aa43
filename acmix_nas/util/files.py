"""How results reach the disk: whole or not at all, never over something else, and saying where they came from."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from acmix_nas.util.errors import UserError

__all__ = [
    "check_format",
    "command_line",
    "document",
    "held",
    "new_folder",
    "provenance",
    "read_csv",
    "read_document",
    "read_json",
    "save_tensors",
    "unused",
    "write_csv",
    "write_document",
    "write_json",
    "write_text",
]

COMMENT = re.compile(r"# acmix-nas (.+?), version (\d+), made by: ")
LOCK = ".lock"
PACKAGES = ("acmix-nas", "nni", "numpy", "pytorch-lightning", "timm", "torch")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for one run, here or in another process, and make it where there is none.

    Raises:
        UserError: where another run holds it.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"folder {str(folder)!r} is in use by another run; wait for its end, or take another folder") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def command_line() -> str:
    """Return the command that is running, as a user would type it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" or program.suffix == ".py":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        first = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {program.name}"
    else:
        first = program.name
    return shlex.join(shlex.split(first) + sys.argv[1:])


def provenance() -> dict[str, Any]:
    """Return which command made an artefact, when, and with which versions."""
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


def document(kind: str, content: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    """Return content with its format and version, and which command made it, where it does not say that itself."""
    return {**provenance(), "format": f"acmix-nas {kind}", "version": version, **content}


def write_document(path: Path, kind: str, content: Mapping[str, Any], version: int = 1) -> Path:
    """Write a `document` as JSON."""
    return write_json(path, document(kind, content, version))


def read_document(path: Path, kind: str, version: int = 1) -> dict[str, Any]:
    """Read what `write_document` wrote; `made_by`, `date` and `versions` stay in it.

    Raises:
        UserError: where the file is missing, of another format, or of a version that this package does not know.
    """
    content = read_json(path, kind)
    check_format(content.pop("format", None), content.pop("version", None), kind, f"{kind} {str(path)!r}", version)
    return content


def check_format(found: Any, found_version: Any, kind: str, where: str, version: int = 1) -> None:
    """Check what a file says of itself.

    Args:
        found: its format.
        found_version: its version.
        kind: what it should be.
        where: what messages begin with.
        version: the newest that is known.

    Raises:
        UserError: where it is of another format, or of a version that is not known.
    """
    if found != f"acmix-nas {kind}":
        says = f"is of format {found!r}" if found else f'has no line "format": "acmix-nas {kind}"'
        raise UserError(f"{where} {says}; it is no {kind} file: give one that this package wrote")
    if type(found_version) is not int or found_version not in range(1, version + 1):
        raise UserError(f"{where} is of version {found_version}; this package reads versions up to {version}: update it")


def write_csv(
    path: Path, kind: str, header: Sequence[str], rows: Iterable[Sequence[str | float | None]], version: int = 1
) -> Path:  # fmt: skip
    """Write a CSV file. Its first line, a comment, says its format, its version, and which command made it."""
    table = io.StringIO()
    table.write(f"# acmix-nas {kind}, version {version}, made by: {' '.join(command_line().split())}\n")
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    return write_text(path, table.getvalue())


def read_csv(path: Path, kind: str, version: int = 1) -> list[tuple[int, list[str]]]:
    """Return the rows that `write_csv` wrote, the header first, each with the number of its line.

    Raises:
        UserError: where the file is missing, of another format, or of a version that this package does not know.
    """
    try:
        comment, _, rest = path.read_text(encoding="utf-8").partition("\n")  # the comment is no CSV: it may hold quotes
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{kind}: no file {str(path)!r}") from None
    except UnicodeDecodeError:
        raise UserError(f"{kind} {str(path)!r} must be a CSV file in UTF-8; its bytes are something else") from None
    said = COMMENT.match(comment)
    where = f"{kind} {str(path)!r}"
    if said is None:
        raise UserError(f"{where} does not begin with '# acmix-nas {kind}, version …'; it is no {kind} file")
    check_format(f"acmix-nas {said[1]}", int(said[2]), kind, where, version)
    reader = csv.reader(rest.splitlines())
    return [(reader.line_num + 1, row) for row in reader]


def unused(*paths: Path) -> None:
    """Check that none of the files exists: nothing is overwritten.

    Raises:
        UserError: naming the first that exists.
    """
    for path in paths:
        if path.exists():
            raise UserError(f"{str(path)!r} exists already, and nothing is overwritten; choose another place")


def save_tensors(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a state dict, which `torch.load` reads back with `weights_only`."""
    import torch  # here alone: settings are files, too, and need no PyTorch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(dict(state), temporary)
    temporary.replace(path)
    return path


def new_folder(parent: Path, name: str) -> Path:
    """Make a new folder parent/name-1, or -2, …: the first that does not exist yet. Nothing old is touched."""
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
