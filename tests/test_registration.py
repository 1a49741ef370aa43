"""Our networks are in timm's registry, whichever of the two packages, and whichever module of ours, is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERS = (
    "import acmix_nas, timm", "import timm, acmix_nas", "from acmix_nas import models; import timm",
    "import acmix_nas; acmix_nas.models; import timm", "import acmix_nas; from timm.models import create_model; import timm",
    "import acmix_nas.blocks, timm", "import acmix_nas.models.swin, timm", "import acmix_nas.search_spaces, timm",
    "import acmix_nas.architecture, timm", "import acmix_nas.backbone, timm",
)  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_they_are_registered(order: str) -> None:
    names = ("resnet50_acmix", "swin_tiny_acmix", "cued_net", "acmix_nas")
    subprocess.run([sys.executable, "-c", f"{order}; assert all(map(timm.is_model, {names}))"], check=True)


def test_a_package_that_is_only_looked_for_is_still_registered_with() -> None:
    code = "import acmix_nas, importlib.util as u; assert u.find_spec('timm'); import timm; assert timm.is_model('cued_net')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_come_when_they_are_asked_for() -> None:
    code = (
        "import sys, acmix_nas; assert 'torch' not in sys.modules; from acmix_nas import build, fuse, ACmix, Architecture; "
        "import acmix_nas.architecture as a; assert acmix_nas.build is a.build; assert not hasattr(acmix_nas, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
