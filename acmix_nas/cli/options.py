"""Commands whose options are the fields of dataclasses: cyclopts parses them and shows their help.

A decorated command takes instances of dataclasses. Its options are their fields by flat name, and its own keyword-only
parameters, each with the help that a docstring's Args give it. Values come from three places: what is typed stands over the
file of `--config`, and the file over the defaults.

cyclopts could make the dataclasses itself (`Parameter(name="*")`). It does not, for four reasons: config files, NNI's
parameters and Python give the same settings by the same flat names, and one reader serves all of them; strategies share
options; a trial's command repeats options, of which the last counts; and a dataclass needs no annotation of a command line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

from cyclopts import Group, Parameter

from acmix_nas.cli.config import overlaid, read_config, written
from acmix_nas.util.reading import accumulates, is_mapping, is_union
from acmix_nas.util.registry import Registry
from acmix_nas.util.settings import Setting, replace_flat, settings_of

__all__ = ["Given", "Inherited", "command", "with_names"]

RUN = "run"
BASIC = Group("Options", sort_key=1)


class Given(frozenset[str]):
    """The flat names of the options that the user gave, typed or in a file. A parameter of this type receives them."""


@dataclass(frozen=True)
class Inherited:
    """Marks a dataclass parameter of which some fields have other defaults than their own.

    Args:
        fields: the names of these fields.
        source: where their values come from, in words.
    """

    fields: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Plan:
    """What a command takes, found once from its signature.

    Attributes:
        settings: every option by flat name.
        groups: its parameters that are dataclasses, and their classes.
        own: its own keyword-only options.
        positional: its positional parameters.
        given: its parameter of type `Given`, if it has one.
        inherited: flat names → where the default comes from.
    """

    settings: Mapping[str, Setting]
    groups: Mapping[str, type]
    own: frozenset[str]
    positional: Sequence[inspect.Parameter]
    given: str | None
    inherited: Mapping[str, str]

    @classmethod
    def of(cls, function: Callable[..., None]) -> Plan:
        """Return the plan of a command."""
        signature = inspect.signature(function, eval_str=True)
        helps = _helps(function)
        groups: dict[str, type] = {}
        own: dict[str, Setting] = {}
        inherited: dict[str, str] = {}
        positional, given = [], None
        for parameter in signature.parameters.values():
            kind = getattr(parameter.annotation, "__origin__", parameter.annotation)
            name = parameter.name
            if kind is Given:
                given = name
            elif is_dataclass(kind) and isinstance(kind, type):
                groups[name] = kind
                for mark in getattr(parameter.annotation, "__metadata__", ()):
                    inherited |= {s.name: mark.source for s in settings_of(kind).values() if s.path[-1] in mark.fields}
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                marks = getattr(parameter.annotation, "__metadata__", ())
                names = tuple(known for mark in marks if isinstance(mark, Registry) for known in mark.names())
                kind = kind if marks else parameter.annotation
                own[name] = Setting(name, kind, (name,), parameter.default, helps.get(name, ""), RUN, names=names)
            else:
                positional.append(parameter)
        settings = {**settings_of(*groups.values()), **own}
        return cls(settings, groups, frozenset(own), positional, given, inherited)

    @property
    def sections(self) -> dict[str, type]:
        """Return names that a config file may give to a mapping of settings, of the command's own dataclasses."""
        return dict(self.groups) if len(self.groups) > 1 else {}


def command(*, shown: Iterable[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the fields of a command's dataclass parameters, and its keyword-only parameters, its options.

    Args:
        shown: the options that `--help` shows; `--help-all` shows all of them, by subject.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        plan, basic = Plan.of(function), tuple(shown)
        if strange := set(basic) - plan.settings.keys():
            raise TypeError(f"{function.__name__} has no options {', '.join(sorted(strange))}")

        @functools.wraps(function)
        def run(
            *positional: Any, config: Path | None = None, print_config: bool = False, help_all: bool = False, **typed: Any
        ) -> None:
            del help_all  # the application answers it before a command is called
            given = {name: _as_typed(plan.settings[name], texts) for name, texts in typed.items() if texts is not None}
            values = overlaid(plan.settings, read_config(config, plan.settings, plan.sections) if config else {}, given)
            own = {name: values.get(name, setting.default) for name, setting in plan.settings.items() if name in plan.own}
            rest = {name: value for name, value in values.items() if name not in plan.own}
            filled = dict(zip(plan.groups, replace_flat(rest, *(group() for group in plan.groups.values())), strict=True))
            if print_config:
                print(written(plan.settings, own, list(filled.values()), plan.inherited.keys() - values.keys()), end="")
                return
            arguments = {**own, **filled, **({plan.given: Given(values)} if plan.given else {})}
            function(*positional, **arguments)

        run.everything = _everything(run, _signature(plan, tuple(plan.settings), by_subject=True))  # type: ignore[attr-defined]
        return _seen_as(run, _signature(plan, basic))

    return decorate


def _signature(plan: Plan, shown: Sequence[str], by_subject: bool = False) -> inspect.Signature:
    """Return the signature that cyclopts sees. Help lists options in its order."""
    panels = dict.fromkeys((*(setting.panel for setting in plan.settings.values()), RUN))
    groups = {
        panel: Group(panel.capitalize(), sort_key=2 + order) if by_subject else BASIC for order, panel in enumerate(panels)
    }
    parameters = list(plan.positional)
    for name in dict.fromkeys((*shown, *plan.settings)):
        setting = plan.settings[name]
        text, flag = _text(setting, plan.inherited.get(name)), setting.kind is bool
        negative = [f"--no-{name.replace('_', '-')}"] if flag else []
        told = Parameter(help=text, group=groups[setting.panel], show=name in shown, negative=negative, **metavar(setting.kind))
        kind: Any = list[bool] if flag else list[str]  # since it may be given again
        annotation: Any = Annotated[kind | None, told]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    for name, kind, text in (
        ("config", Path | None, "YAML file of these options; what is typed stands over it"),
        ("print_config", bool, "print all options as such a file, and stop"),
        ("help_all", bool, f"show all {len(plan.settings)} options, by subject"),
    ):
        annotation = Annotated[kind, Parameter(help=text, group=groups[RUN], negative=(), show_default=False)]
        default = False if kind is bool else None
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return inspect.Signature(parameters)


def metavar(kind: Any) -> dict[str, Any]:
    """Return what stands for a value of a type in help, where cyclopts can show it: version 4, for Python 3.10, cannot."""
    if kind is bool or not hasattr(Parameter, "metavar"):
        return {}
    names = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
    members = [member for member in get_args(kind) if member is not NoneType] if is_union(kind) else [kind]
    return {"metavar": "|".join("KEY=VALUE" if is_mapping(member) else names.get(member, "A,B") for member in members)}


def _everything(run: Callable[..., None], signature: inspect.Signature) -> Callable[..., None]:
    """Return a copy of a command whose help shows all options."""

    @functools.wraps(run)
    def everything(*arguments: Any, **options: Any) -> None:
        run(*arguments, **options)

    return _seen_as(everything, signature)


def _seen_as(function: Callable[..., None], signature: inspect.Signature) -> Callable[..., None]:
    """Give a wrapper another signature than that of what it wraps."""
    del function.__wrapped__  # type: ignore[attr-defined]
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    return function


def _text(setting: Setting, source: str | None) -> str:
    """Return the help of an option: its text, the variants that have it, and its default."""
    parts = [with_names(setting.help, setting.names)]
    if setting.variants:
        parts.append(f"(of {', '.join(setting.variants)})")
    if source:
        parts.append(f"[default: {source}]")
    elif isinstance(setting.default, Mapping) and setting.variants and not is_mapping(setting.kind):
        parts.append(f"[default: {', '.join(f'{_shown(value)} ({name})' for name, value in setting.default.items())}]")
    elif setting.default not in (None, False, (), "") and setting.default != {}:
        parts.append(f"[default: {_shown(setting.default)}]")
    return " ".join(parts)


def with_names(text: str, names: Iterable[str]) -> str:
    """Return the help of an option that holds a registered name, with the names there are."""
    listed = ", ".join(names)
    return f"{text} [{listed}]" if listed else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _as_typed(setting: Setting, texts: Sequence[Any]) -> Any:
    """Convert what was typed, perhaps several times: the last counts, but mappings and lists of texts are added to."""
    option = f"--{setting.name.replace('_', '-')}"
    if not accumulates(setting.kind):
        return setting.read(texts[-1], option)
    if is_mapping(setting.kind):
        found: dict[Any, Any] = {}
        for text in texts:
            found |= setting.read(text, option)
        return found
    parts = [part for text in texts for part in setting.read(text, option)]
    return tuple({part.partition("=")[0]: part for part in parts}.values())  # the later of two limits stands


def _helps(function: Callable[..., None]) -> dict[str, str]:
    from docstring_parser import parse

    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(function.__doc__ or "").params}
