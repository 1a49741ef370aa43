"""How commands end: a mistake of the user's in one line and status 2, a broken run in status 1, Ctrl-C in 130."""

from __future__ import annotations

import sys
from typing import Any

import click
import typer
from rich.console import Console

from acmix_nas.errors import UserError

__all__ = ["app", "console", "run"]

console = Console(stderr=True, highlight=False)
"""Where commands talk to a person; results that another program reads go to standard output."""


class BrokenRun(RuntimeError):  # noqa: N818  it is no mistake of the program's
    """Something that was started went wrong outside this program; its message may have several lines."""


def app(text: str) -> typer.Typer:
    """A typer application with this project's settings."""
    return typer.Typer(
        help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )  # fmt: skip


def run(application: Any) -> None:
    """Run an application and end the process."""
    try:
        application(standalone_mode=False)
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except BrokenRun as error:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        console.print("stopped")
        sys.exit(130)
