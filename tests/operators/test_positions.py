"""What tells an attention where its keys are: the coordinates, Swin's table of offsets, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from acmix_nas.operators import (
    POSITIONS,
    GlobalAttention,
    GlobalPath,
    LinearPosition,
    LocalAttention,
    LocalPath,
    RelativeBias,
    WindowAttention,
    WindowPath,
    attention_path,
)
from acmix_nas.util.errors import UserError
from tests import reference
from tests.small import known

TABLED: list[Any] = [LocalAttention, WindowAttention]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (6, 2)])
def test_coordinates_run_from_minus_one_to_one_width_first(height: int, width: int) -> None:
    position = LinearPosition(4)
    oracle = reference.encode(height, width, position.linear.weight, position.linear.bias)
    torch.testing.assert_close(position(height, width), oracle.permute(1, 2, 0))


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_rows_of_the_table_belong_to_offsets_height_first(reach: int) -> None:
    position = RelativeBias(reach, heads=3)
    rows, columns = torch.tensor([[-2, 0, 1], [3, -5, 2]]), torch.tensor([[1, -1], [0, -4], [7, 2]])
    bias = position(rows, columns)
    assert bias.shape == (1, 3, 2 * 3, 3 * 2)
    side = 2 * reach + 1
    for i, t in enumerate((a, b) for a in range(2) for b in range(3)):
        for j, s in enumerate((a, b) for a in range(3) for b in range(2)):
            down, right = (max(-reach, min(reach, int(x))) for x in (rows[t[0], s[0]], columns[t[1], s[1]]))
            torch.testing.assert_close(bias[0, :, i, j], position.table[(down + reach) * side + right + reach])


def test_the_table_starts_small_and_random() -> None:
    table = RelativeBias(6, heads=8).table
    assert table.shape == (13**2, 8)
    assert table.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("make", "rows"), [(lambda: LocalPath(8, 2, 5, position="table"), 25), (lambda: WindowPath(8, 2, 5, position="table"), 81)]
)
def test_the_table_has_a_row_for_every_offset(make: Any, rows: int) -> None:
    assert make().position.table.shape == (rows, 2)


@pytest.mark.parametrize("cls", TABLED)
@pytest.mark.parametrize("favoured", [(0, 0), (-1, 0), (0, 2), (1, -2)])
def test_a_large_entry_makes_queries_copy_that_neighbour(cls: Any, favoured: tuple[int, int]) -> None:
    """Query minus key is (down, right): with everything else equal, the pixel that far above and to the left is copied."""
    down, right = favoured
    attention = cls(2, 2, heads=1, window=5, position="table")
    reach = attention.path.position.reach
    with torch.no_grad():
        attention.projection.qkv.weight.zero_()
        attention.projection.qkv.bias.zero_()
        attention.projection.qkv.weight[4:] = torch.eye(2)[:, :, None, None]
        attention.path.position.table.zero_()[(down + reach) * (2 * reach + 1) + right + reach] = 100.0
    x = torch.randn(1, 2, 5, 5)
    out = attention(x)
    torch.testing.assert_close(out[:, :, 2, 2], x[:, :, 2 - down, 2 - right])


def test_a_map_smaller_than_the_window_uses_the_inner_offsets() -> None:
    attention = WindowAttention(3, 4, heads=2, window=7, position="table")
    attention(torch.randn(2, 3, 2, 3)).square().sum().backward()
    used = known(attention.get_parameter("path.position.table").grad).abs().sum(1).view(13, 13) > 0
    expected = torch.zeros(13, 13, dtype=torch.bool)
    expected[5:8, 4:9] = True
    assert torch.equal(used, expected)


@pytest.mark.parametrize("cls", TABLED)
@pytest.mark.parametrize(("position", "same"), [("table", True), ("none", True), ("linear", False)])
def test_a_table_counts_pixels_and_coordinates_the_map(cls: Any, position: str, same: bool) -> None:
    attention = cls(4, 4, heads=2, position=position)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, 21, 7)
    alone = attention(x[:, :, :7])  # row 3 has the same neighbours in both
    assert torch.allclose(attention(x)[:, :, 3], alone[:, :, 3], atol=1e-4) == same


@pytest.mark.parametrize("make", [LocalPath, WindowPath, GlobalPath])
def test_no_position_has_no_parameters(make: Any) -> None:
    assert list(make(8, 2, position="none").parameters()) == []


@pytest.mark.parametrize("kind", ["local", "window", "global"])
@pytest.mark.parametrize("position", POSITIONS)
def test_paths_by_name_have_the_position_that_they_can(kind: str, position: str) -> None:
    found = getattr(attention_path(kind, 8, 2, position=position), "position", None)
    table = LinearPosition if kind == "global" else RelativeBias
    assert type(found) is {"linear": LinearPosition, "table": table, "none": type(None)}[position]


@pytest.mark.parametrize("cls", TABLED)
def test_positions_cost_what_they_multiply(cls: Any) -> None:
    macs = {position: cls(8, 8, heads=2, position=position).path.macs(9, 6) for position in POSITIONS}
    assert macs["table"] == macs["none"]
    assert macs["linear"] == macs["none"] + 2 * 4 * 9 * 6


@pytest.mark.parametrize("cls", TABLED)
def test_a_table_takes_device_and_type(cls: Any) -> None:
    attention = cls(8, 8, heads=2, position="table", device="meta", dtype=torch.float16)
    assert (attention.path.position.table.device.type, attention.path.position.table.dtype) == ("meta", torch.float16)


@pytest.mark.parametrize("cls", TABLED)
def test_a_table_under_autocast_stays_close(cls: Any) -> None:
    attention = cls(16, 16, heads=4, position="table")
    nn.init.normal_(attention.path.position.table)
    x = torch.randn(2, 16, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(x)
    out.float().square().sum().backward()
    assert attention.path.position.table.grad.isfinite().all()
    torch.testing.assert_close(out.float(), attention(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("cls", "position", "known"),
    [
        (LocalAttention, "axial", "linear, table, none"),
        (WindowAttention, "", "linear, table, none"),
        (GlobalAttention, "table", "linear, none"),
    ],
)
def test_errors_name_the_positions(cls: Any, position: str, known: str) -> None:
    with pytest.raises(UserError, match=rf"^position must be one of {known}; got {position!r}$"):
        cls(8, 8, heads=2, position=position)
