"""Where should a vision backbone convolve, and where attend? A search on NNI, with ACmix among the answers.

    from acmix_nas import hybridize, build

Everything but the search itself loads and runs where NNI is not installed. Names are imported when they are asked for: a tuner
of NNI's has 10 s to start, and needs neither PyTorch nor timm for that. Our networks are in timm's registry all the same.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# NNI wraps what it finds in torch.nn, and warns of every class there that is not a module.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

from acmix_nas.registration import register_networks  # noqa: E402

if TYPE_CHECKING:
    __version__: str
    from acmix_nas import models
    from acmix_nas.architecture import Architecture, build
    from acmix_nas.errors import UserError
    from acmix_nas.fusion import fuse
    from acmix_nas.operators import ACmix
    from acmix_nas.search_spaces import hybridize

__all__ = ["ACmix", "Architecture", "UserError", "build", "fuse", "hybridize", "models"]

MODULES = {
    "ACmix": "operators",
    "Architecture": "architecture",
    "UserError": "errors",
    "build": "architecture",
    "fuse": "fusion",
    "hybridize": "search_spaces",
}

register_networks()


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module(f"{__name__}.models")
    if name == "__version__":
        return import_module("importlib.metadata").version("acmix-nas")
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
