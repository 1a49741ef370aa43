"""Where should a vision backbone convolve, and where attend? A search on NNI, with ACmix among the answers.

    from acmix_nas import hybridize, build

Everything but the search itself loads and runs where NNI is not installed.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

# NNI wraps what it finds in torch.nn, and warns of every class there that is not a module.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

from acmix_nas import models  # noqa: E402  registers the networks with timm
from acmix_nas.architecture import Architecture, build  # noqa: E402
from acmix_nas.errors import UserError  # noqa: E402
from acmix_nas.fusion import fuse  # noqa: E402
from acmix_nas.operators import ACmix  # noqa: E402

if TYPE_CHECKING:
    from acmix_nas.search_spaces import hybridize

__all__ = ["ACmix", "Architecture", "UserError", "build", "fuse", "hybridize", "models"]


def __getattr__(name: str) -> Any:
    """`hybridize` needs NNI, so it is imported only when it is asked for."""
    if name == "hybridize":
        from acmix_nas.search_spaces import hybridize

        return hybridize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
