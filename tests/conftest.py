"""What all tests share: one thread, one seed, and no GPU test without a GPU."""

from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: two of pytest's workers with two threads each on two
# cores wait for each other ten times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import acmix_nas.models
import acmix_nas.research.cued_net  # noqa: F401  both fill timm's registry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
