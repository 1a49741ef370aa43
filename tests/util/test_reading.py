"""What a person types as KEY=VALUE becomes what is meant."""

from __future__ import annotations

from typing import Any

import pytest

from acmix_nas.util.reading import pairs


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=False", False), ("a=true", True), ("a=None", None), ("a=[16,32]", [16, 32]), ("a=avg", "avg"), ("a=1e-3", 1e-3)],
)
def test_a_value_is_read_as_json_or_python_writes_it(text: str, value: Any) -> None:
    assert pairs([text]) == {"a": value}
