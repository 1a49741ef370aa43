"""Names of operators and candidates, and what is said about mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmix_nas.slots.finding import Slot
from acmix_nas.slots.names import DEFAULT_CANDIDATES, OperatorName, check_candidates
from acmix_nas.util.errors import UserError


@pytest.mark.parametrize(
    ("name", "kind", "mixed", "settings"),
    [
        ("conv", None, False, {}),
        ("local", "local", False, {}),
        ("local_k3", "local", False, {"window": 3}),
        ("acmix_window_k4", "window", True, {"window": 4}),
        ("acmix_global", "global", True, {}),
        ("global_r2", "global", False, {"reduction": 2}),
        ("patchwise", "patchwise", False, {}),
        ("acmix_patchwise_k3", "patchwise", True, {"window": 3}),
    ],
)
def test_operator_names_are_taken_apart(name: str, kind: str | None, mixed: bool, settings: dict[str, int]) -> None:
    operator = OperatorName.parse(name)
    assert (operator.kind, operator.mixed, operator.settings) == (kind, mixed, settings)


UNKNOWN = [
    "", "axial", "acmix", "acmix_", "home", "acmix_conv", "acmix_acmix_local", "patchwise_r2", "local_r2", "global_k3",
    "local_k", "local_k3_k5", "local_3", "local_", "local_k3_", "Local", "local ", "local_k3\n", "local_k³", 3, None,
]  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_no_operator_has_another_name(name: Any) -> None:
    with pytest.raises(UserError, match=r"operator must be conv, .*global_r3, local_k3, .*; got "):
        OperatorName.parse(name)


@given(st.text(max_size=20))
def test_any_text_is_an_operator_or_an_error(text: str) -> None:
    try:
        parsed = OperatorName.parse(text)
    except UserError as error:
        message = str(error)
    else:
        message = repr(parsed.text)
    assert repr(text) in message


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([], "got none"), (["conv", "conv"], "conv twice"), ("conv", "must be a list"), (["conv", "cnov"], "got 'cnov'")],
)
def test_candidates_are_checked(candidates: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_candidates(candidates)


def test_home_is_local_where_nothing_is_known() -> None:
    assert check_candidates(DEFAULT_CANDIDATES) == Slot("x", 8, 8, heads=2).candidates == ("conv", "local", "acmix_local")
