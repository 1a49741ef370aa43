"""How commands talk and end: a mistake of the user's in one line and status 2, a broken run in status 1."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from statistics import mean, stdev

import typer
from rich.console import Console

from acmix_nas.errors import UserError

__all__ = ["BrokenRun", "app", "console", "mean_and_deviation", "run"]

console = Console(stderr=True, highlight=False)
"""Where commands talk to a person; results that another program reads go to standard output."""


class BrokenRun(RuntimeError):  # noqa: N818  it is no mistake of the program's
    """Something that was started went wrong outside this program; its message may have several lines."""


def mean_and_deviation(values: Sequence[float], unit: str = "") -> str:
    """Mean ± standard deviation, to one digit; of one value alone there is none."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") + unit


def app(text: str) -> typer.Typer:
    """A typer application with this project's settings."""
    return typer.Typer(
        help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )  # fmt: skip


def run(application: typer.Typer) -> None:
    """Run an application and end the process; typer itself says what is wrong with an option, with status 2."""
    try:
        application()
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        if error.filename is None:
            raise
        console.print(f"error: {error.filename!r}: {(error.strerror or '').lower()}", markup=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "nni":
            raise
        console.print(f"error: this command needs NNI{_how_to_get_nni()}", markup=False, soft_wrap=True)
        sys.exit(2)
    except BrokenRun as error:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
        sys.exit(1)


def _how_to_get_nni() -> str:
    """Say how NNI is installed, or why it cannot be."""
    if platform.machine() in ("x86_64", "AMD64"):  # as in setup.cfg
        return ": pip install 'nni>=3,<4' 'setuptools<81'"
    return f", which can be installed on x86-64 machines only; this one is {platform.machine()}"
