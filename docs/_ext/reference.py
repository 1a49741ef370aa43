"""Write the reference while Sphinx reads it: public names for autodoc, and a table of options for each command.

The notebooks of the repository become pages, too.

In a page, `<!-- names of acmix_nas.strategies -->` stands for the public names of that module, and
`<!-- names of acmix_nas.costs.table: CostTable -->` for some of its names. `<!-- commands -->` stands for the command line.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import Argument
from sphinx.application import Sphinx

NAMES = re.compile(r"^<!-- names of ([\w.]+)(?:: ([\w, ]+))? -->$", re.MULTILINE)
COMMANDS = "<!-- commands -->"
DOOR = "acmix_nas"


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx which pages are filled in, and that they follow the code instead of a file."""
    app.connect("builder-inited", bring_notebooks)
    app.connect("source-read", fill_in)
    app.connect("env-get-outdated", lambda _app, env, *_: {page for page in env.found_docs if page.startswith("reference/")})
    return {"parallel_read_safe": True}


def bring_notebooks(app: Sphinx) -> None:
    """Copy the notebooks to where Sphinx finds them; those that have not changed keep their dates."""
    for notebook in Path(app.srcdir).parent.glob("examples/*.ipynb"):
        shutil.copy2(notebook, Path(app.srcdir) / "examples")


def fill_in(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Put what the marks of a page stand for in their places."""
    text = NAMES.sub(lambda match: names_of(match[1], match[2]), source[0])
    source[0] = text.replace(COMMANDS, "\n".join(every_command())) if COMMANDS in text else text


def names_of(module: str, chosen: str | None) -> str:
    """Return a directive of autodoc for each name; what the door shows already is only named."""
    public = import_module(module)
    names = sorted(chosen.split(", ") if chosen else public.__all__, key=str.lower)
    at_the_door = set() if module == DOOR else set(import_module(DOOR).__all__)
    lines = [line for name in names if name not in at_the_door for line in described(module, name, getattr(public, name))]
    if here := [f"{{py:obj}}`~{DOOR}.{name}`" for name in names if name in at_the_door]:
        lines.append(f"On the page of `{DOOR}`: {', '.join(here)}.\n")
    return "\n".join(lines)


def described(module: str, name: str, thing: Any) -> Iterator[str]:
    """Yield the heading and the directive of one name."""
    options: list[str] = []
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
        options = [] if issubclass(thing, tuple) else [":members:"]  # fields of a NamedTuple stand in its docstring
    elif inspect.isroutine(thing):
        kind = "autofunction"
    else:
        kind, options = "autodata", [":no-value:"]
    yield f"## `{name}`\n"
    yield "\n".join(("```{eval-rst}", f".. {kind}:: {module}.{name}", *(f"   {option}" for option in options), "```\n"))


def every_command() -> Iterator[str]:
    """Yield a section for each panel of `acmix-nas --help`, and one for the trials of NNI's experiments."""
    from acmix_nas.cli.main import COMMANDS as PANELS
    from acmix_nas.cli.main import TRIAL, app, application, trial

    for panel, commands in PANELS.items():
        yield f"## {panel}\n"
        for name in commands:
            yield from command(application, app, name, f"acmix-nas {name}")
    yield "## Trials\n"
    yield "NNI starts these commands, as a config's `trialCommand` says.\n"
    for name in TRIAL:
        yield from command(application, trial, name, f"python -m acmix_nas trial {name}")


def command(application: Any, parent: App, name: str, typed: str) -> Iterator[str]:
    """Yield what a command does, and the tables of its arguments and options, in the order of its help."""
    parent.resolved_commands()
    function = parent[name].default_command
    everything = getattr(function, "everything", function)
    shown = application(name, everything.__doc__)
    shown.default(everything)
    arguments = list(shown.assemble_argument_collection())
    positional = [argument for argument in arguments if not argument.names[0].startswith("-")]
    usage = " ".join([typed, *(usage_of(argument) for argument in positional), "[OPTIONS]"])
    summary = inspect.cleandoc(everything.__doc__).partition("\n\nArgs:")[0]
    yield f"### `{typed}`\n\n{summary}\n\n```text\n{usage}\n```\n"
    panels: dict[str, list[Argument]] = {}
    for argument in arguments:
        panels.setdefault(argument.parameter.group[0].name, []).append(argument)
    for panel, rows in panels.items():
        yield f"| {panel.lower()} | what it is | default |\n|---|---|---|"
        yield from map(row, rows)
        yield ""


def usage_of(argument: Argument) -> str:
    """Return how a positional argument stands in a command."""
    name = argument.names[0]
    if argument.field_info.kind is argument.field_info.VAR_POSITIONAL:
        return f"[{name} ...]"
    return name if argument.field_info.default is inspect.Parameter.empty else f"[{name}]"


def row(argument: Argument) -> str:
    """Return an argument's row of the table. What our commands have as a default stands at the end of their help."""
    text, _, default = (argument.parameter.help or "").partition(" [default: ")
    default = default.removesuffix("]")
    given = argument.field_info.default
    if not default and given not in (None, inspect.Parameter.empty, False, ""):
        default = str(given)
    return f"| {name_of(argument.names, argument.hint)} | {escaped(text)} | {f'`{default}`' if default else ''} |"


def name_of(names: Sequence[str], kind: Any) -> str:
    """Return the names of an option; a flag says how it is turned off by itself."""
    return ", ".join(f"`{name}`" for name in names if kind is not bool or not name.startswith("--no-"))


def escaped(text: str) -> str:
    """Return a text in which Markdown finds no table, no emphasis and no link."""
    return re.sub(r"([|*_<\[\]])", r"\\\1", text)
