"""Where should a vision backbone convolve, and where attend? A search on NNI, with ACmix among the answers.

    import acmix_nas

    found = acmix_nas.search("resnet18", "photos", budget={"macs": 60e6})
    trained = acmix_nas.retrain(found, epochs=100)

Names are imported when they are asked for: a tuner of NNI's has 10 s to start, and needs neither PyTorch nor timm for that.
All but the search runs where NNI is not installed.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from acmix_nas.util.lazy import lazy_names

if TYPE_CHECKING:
    from acmix_nas.architecture import Architecture, build
    from acmix_nas.costs.registry import Cost, register_cost
    from acmix_nas.deploy.export import export_onnx
    from acmix_nas.deploy.fusion import fuse
    from acmix_nas.deploy.profile import profile
    from acmix_nas.operators import ACmix
    from acmix_nas.operators.registry import register_operator
    from acmix_nas.search_spaces import hybridize
    from acmix_nas.searching.run import Found, search
    from acmix_nas.strategies.base import SearchStrategy, register_strategy
    from acmix_nas.training.config import DataConfig
    from acmix_nas.training.data import Data
    from acmix_nas.training.images import ImageData, register_data
    from acmix_nas.training.recipe import Recipe
    from acmix_nas.training.retrain import Trained, evaluate, retrain
    from acmix_nas.training.task import Task, register_task
    from acmix_nas.util.errors import UserError

# NNI wraps what it finds in torch.nn, and warns of every class there that is not a module.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

__all__ = [
    "ACmix", "Architecture", "Cost", "Data", "DataConfig", "Found", "ImageData", "Recipe", "SearchStrategy", "Task", "Trained",
    "UserError", "__version__", "build", "evaluate", "export_onnx", "fuse", "hybridize", "profile", "register_cost",
    "register_data", "register_operator", "register_strategy", "register_task", "retrain", "search",
]  # fmt: skip

_find, _ = lazy_names(
    __name__,
    {
        "architecture": ["Architecture", "build"],
        "costs.registry": ["Cost", "register_cost"],
        "deploy.export": ["export_onnx"],
        "deploy.fusion": ["fuse"],
        "deploy.profile": ["profile"],
        "operators": ["ACmix"],
        "operators.registry": ["register_operator"],
        "search_spaces": ["hybridize"],
        "searching.run": ["Found", "search"],
        "strategies.base": ["SearchStrategy", "register_strategy"],
        "training.config": ["DataConfig"],
        "training.data": ["Data"],
        "training.images": ["ImageData", "register_data"],
        "training.recipe": ["Recipe"],
        "training.retrain": ["Trained", "evaluate", "retrain"],
        "training.task": ["Task", "register_task"],
        "util.errors": ["UserError"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("acmix-nas")
    return _find(name)


def __dir__() -> list[str]:
    return sorted(__all__)
