"""Our networks in timm's registry, as soon as there is one.

timm does not look for the networks of other packages. To import it here would be simple, but then whatever imports a part of
this package waits for timm and PyTorch, needed or not: 4 to 10 s on a busy machine, and NNI's server waits 10 s for a tuner.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_networks"]


def register_networks() -> None:
    """Import our networks, which register themselves: now where timm is there, or right after it, whoever imports it."""
    if "timm" in sys.modules:
        import_module("acmix_nas.models")
    else:
        sys.meta_path.insert(0, AfterTimm())


class AfterTimm(MetaPathFinder):
    """Finds timm where the other finders do, and adds our networks to its execution."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_both(module: ModuleType) -> None:
            execute(module)
            if "acmix_nas.blocks" not in sys.modules:  # which our networks need: where it imports timm, it imports them itself
                import_module("acmix_nas.models")

        spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec
