"""Messages about an unknown name say the nearest known one."""

from __future__ import annotations

import pytest

from acmix_nas.util.errors import one_of


@pytest.mark.parametrize(
    ("got", "end"),
    [
        ("dart", "; got 'dart'; did you mean 'darts'?"),
        ("darts3", "; got 'darts3'; did you mean 'darts'?"),
        ("annealing", "; got 'annealing'"),
        (3, "; got 3"),
    ],
)
def test_the_nearest_name_is_said(got: object, end: str) -> None:
    assert str(one_of("strategy", got, ["single_path", "darts"])) == f"strategy must be one of single_path, darts{end}"
