"""The command line: the names of the commands, each loaded when it is called, and how they end.

A mistake of the user's ends in one line and status 2, a broken run in status 1, an interruption in status 130.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group

from acmix_nas.util.errors import UserError
from acmix_nas.util.terminal import BrokenRun, console

__all__ = ["app", "main"]

NAME = "acmix-nas"
EVERYTHING = "--help-all"
COMMANDS = {
    "Search": {"search": "search:search", "derive": "search:derive"},
    "Train": {"retrain": "train:retrain", "evaluate": "train:evaluate"},
    "Deploy": {"profile": "deploy:profile", "export-onnx": "deploy:export_onnx", "latency": "deploy:latency"},
    "See": {"bias": "look:bias"},
    "Experiments of NNI": {"experiment": "nni:experiment", "export": "nni:export"},
    "Research": {
        "paper": "research:paper",
        "bench": "research:bench",
        "tabulate": "research:tabulate",
        "assess": "research:assess",
        "queries": "research:queries",
        "demo": "research:demo",
    },
}
"""Panel → command → where it stands in `acmix_nas.cli`."""
TRIAL = {"search": "nni:trial_search", "evaluate": "nni:trial_evaluate", "train": "nni:trial_train"}


def application(name: str, text: str, show: bool = True, usage: str | None = None) -> App:
    """Return a cyclopts application with this project's settings."""
    return App(
        name=name, help=text, show=show, usage=usage, help_flags=["--help", "-h"], version=lambda: version(NAME),
        version_flags=["--version"], help_format="plaintext", group_parameters=Group("Options", sort_key=1),
        suppress_keyboard_interrupt=False, result_action="return_value",
    )  # fmt: skip


app = application(NAME, "Where should a vision backbone convolve, and where attend? Search, retrain, profile, export.")
for number, (panel, commands) in enumerate(COMMANDS.items()):
    group = Group(panel, sort_key=number)
    for order, (command, place) in enumerate(commands.items()):
        app.command(f"acmix_nas.cli.{place}", name=command, group=group, sort_key=order)
trial = application("trial", "One trial of an NNI experiment. NNI's parameters stand over its options.", show=False)
for command, place in TRIAL.items():
    trial.command(f"acmix_nas.cli.{place}", name=command)
app.command(trial)
shell = Group("Of the program", sort_key=len(COMMANDS))
app.register_install_completion_command(group=shell, help="Install completion for this shell: bash, zsh or fish.")
app["--help"].group = app["--version"].group = shell


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and end the process: the console script, and `python -m acmix_nas`."""
    try:
        run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        end(f"error: {error}", 2)
    except CycloptsError as error:
        end(f"error: {' '.join(str(error).split())}", 2)
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        if error.filename is None:
            raise
        end(f"error: {error.filename!r}: {(error.strerror or '').lower()}", 2)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "nni":
            raise
        end(f"error: this command needs NNI{how_to_get_nni()}", 2)
    except BrokenRun as error:
        end(f"failed: {error}", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def run(arguments: list[str]) -> None:
    """Call the command that is named, or show its help."""
    if EVERYTHING in arguments and show_everything(arguments):
        return
    if set(arguments) <= {"--help", "-h"}:
        app.resolved_commands()  # whose first lines the help shows
    app(arguments or ["--help"], print_error=False, exit_on_error=False, verbose=False)


def show_everything(arguments: list[str]) -> bool:
    """Show the help of a command with all of its options. Return False where it has no more than `--help` shows."""
    chain, apps, _ = app.parse_commands([argument for argument in arguments if argument != EVERYTHING])
    everything = getattr(apps[-1].default_command, "everything", None)
    if everything is None:
        return False
    name = " ".join([NAME, *chain])
    shown = application(name, everything.__doc__, usage=f"Usage: {name} [OPTIONS]")
    shown["--help"].show = shown["--version"].show = False
    shown.default(everything)
    shown.help_print([])
    return True


def end(line: str, status: int) -> None:
    """Say how it ends, and end."""
    console.print(line, markup=False, soft_wrap=True)
    sys.exit(status)


def how_to_get_nni() -> str:
    """Return how NNI is installed, or why it cannot be."""
    if platform.machine() in ("x86_64", "AMD64"):  # as in setup.cfg
        return ": pip install 'nni>=3,<4' 'setuptools<81'"
    return f", which can be installed on x86-64 machines only; this one is {platform.machine()}"
