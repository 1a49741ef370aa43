"""The reflection of indices at the border, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acmix_nas.operators.stage import reflected


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("reach", [0, 1, 2, 6, 19])
def test_indices_bounce_as_often_as_needed(size: int, reach: int) -> None:
    found = reflected(torch.arange(-reach, size + reach), size)
    assert found.tolist() == np.pad(np.arange(size), reach, mode="reflect").tolist()
