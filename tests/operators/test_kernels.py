"""The kernels in C against PyTorch's forms of the same attentions, which tests/reference.py vouches for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acmix_nas.operators import Output, attention_path, kernels
from acmix_nas.operators.kernels import compiled
from acmix_nas.operators.stage import Path as Stage2

QUICK = ("-O0", *compiled.FLAGS[1:])
"""Where nothing is computed: optimising takes the compiler half a minute."""


@pytest.fixture
def fresh() -> Iterator[None]:
    """Make the process forget that it looked for a compiler, and forget it again afterwards."""
    compiled.library.cache_clear()
    yield
    compiled.library.cache_clear()


def test_this_machine_compiles_them() -> None:
    assert compiled.library() is not None


def both(path: Stage2, maps: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """Return output and gradients of the maps and of every parameter, in C and in PyTorch."""
    found = []
    for in_c in (True, False):
        with monkeypatch.context() as patch:
            if not in_c:
                patch.setattr(compiled, "library", lambda: None)
            assert kernels.runs_on(maps) == in_c
            path.zero_grad()
            x = maps.clone(memory_format=torch.channels_last).requires_grad_()
            out = path(x)
            weights = torch.linspace(-1, 1, out.numel()).view_as(out)
            (out * weights).sum().backward()
            assert x.grad is not None
            found.append([out.detach(), x.grad, *(p.grad for p in path.parameters() if p.grad is not None)])
    return found


def close(found: list[list[Tensor]]) -> None:
    for mine, theirs in zip(*found, strict=True):
        # What reaches the bias of linear positions is a sum that is 0 but for rounding: relative to the largest of all.
        assert (mine - theirs).abs().max() <= 2e-5 * max(1.0, float(theirs.abs().max()))


KINDS: list[dict[str, Any]] = [
    {"kind": "local"},
    {"kind": "local", "window": 5, "dilation": 2},
    {"kind": "local", "border": "mask"},
    {"kind": "local", "border": "mask", "dilation": 3, "window": 3},
    {"kind": "window"},
    {"kind": "window", "shift": True},
    {"kind": "window", "shift": True, "window": 4},
    {"kind": "global"},
    {"kind": "global", "reduction": 2},
]


@given(
    arguments=st.sampled_from(KINDS),
    position=st.sampled_from(["linear", "table", "none"]),
    heads=st.sampled_from([1, 2, 3]),
    head_dim=st.sampled_from([1, 3, 4, 8, 12, 16, 20]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    stride=st.integers(1, 3),
    batch=st.integers(1, 3),
)
@settings(max_examples=120, deadline=None)
def test_equal_pytorchs_form_with_gradients(
    arguments: dict[str, Any], position: str, heads: int, head_dim: int, height: int, width: int, stride: int, batch: int
) -> None:
    torch.manual_seed(0)
    path = attention_path(channels=heads * head_dim, heads=heads, stride=stride, position=position, **arguments)
    maps = torch.randn(batch, 3 * heads * head_dim, height, width)
    close(both(path, maps, pytest.MonkeyPatch()))


@pytest.mark.parametrize("position", ["linear", "table"])
@pytest.mark.parametrize("arguments", KINDS, ids=str)
def test_an_empty_batch_has_an_empty_output_and_gives_no_gradient(arguments: dict[str, Any], position: str) -> None:
    path = attention_path(channels=8, heads=2, position=position, **arguments)
    maps = torch.randn(0, 24, 9, 7, requires_grad=True)
    assert kernels.runs_on(maps)
    out = path(maps)
    assert out.shape == (0, 8, 9, 7)
    out.sum().backward()
    assert maps.grad is not None
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in path.parameters())


@pytest.mark.parametrize("side", [56, 28])
@pytest.mark.parametrize("kind", ["local", "window", "global"])
def test_large_maps_in_bands_and_blocks(kind: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = attention_path(kind, 64, 2, shift=True)
    close(both(path, torch.randn(1, 192, side, side), monkeypatch))


def test_logits_that_exp_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("local", "window", "global"):
        path = attention_path(kind, 16, 2, position="none")
        maps = torch.randn(1, 48, 9, 9)
        maps[:, :32] *= 30
        out, expected = (row[0] for row in both(path, maps, monkeypatch))
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


def test_swins_rolled_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    path = attention_path("window", 16, 2, window=4, shift=True, position="table")
    path.rolled = True  # type: ignore[assignment]
    close(both(path, torch.randn(2, 48, 12, 12), monkeypatch))


@pytest.mark.parametrize("kind", ["local", "window", "global"])
def test_the_number_of_threads_changes_nothing(kind: str) -> None:
    path = attention_path(kind, 32, 4, shift=True)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        x = torch.linspace(-2, 2, 2 * 96 * 20 * 20).sin().view(2, 96, 20, 20).requires_grad_()
        out = path(x)
        out.square().sum().backward()
        found.append((out, x.grad))
    torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] is not None
    assert torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]


def test_autocast_computes_in_float32() -> None:
    path = Output(attention_path("global", 16, 2))
    maps = torch.randn(1, 48, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.runs_on(maps.bfloat16())
        out = path.path(maps.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), path.path(maps.bfloat16().float()), rtol=2e-2, atol=2e-2)


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("arguments", KINDS, ids=str)
@pytest.mark.parametrize(("default", "side"), [(double, 23), (lambda: torch.device("meta"), 24)], ids=["float64", "meta"])
def test_defaults_of_the_first_forward_are_not_kept(
    default: Callable[[], AbstractContextManager[Any]], side: int, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other test has maps of these sizes: what is kept of them is made here."""
    path = attention_path(channels=8, heads=2, position="none", **arguments)
    maps = torch.randn(1, 24, side, side)
    with default():
        path(maps)
    close(both(path, maps, monkeypatch))


def test_other_types_and_graphs_are_left_to_pytorch() -> None:
    maps = torch.randn(1, 12, 4, 4)
    assert kernels.runs_on(maps)
    assert not kernels.runs_on(maps.double())
    assert not kernels.runs_on(maps.bfloat16())
    assert not kernels.runs_on(maps.to("meta"))
    path = attention_path("local", 4, 2)
    compiled = torch.compile(path, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(maps), path(maps))


@pytest.mark.usefixtures("fresh")
def test_a_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert compiled.library() is None


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_is_said_once_and_pytorch_takes_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "slide.c").write_text("int slide_forward( {")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert not kernels.runs_on(torch.zeros(1))
        assert attention_path("local", 4, 2)(torch.randn(1, 12, 5, 5)).shape == (1, 4, 5, 5)
    assert [record.message for record in caplog.records if "could not be compiled" in record.message] != []
    assert len(caplog.records) == 1
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("fresh")
def test_where_one_compiler_fails_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no libgomp >&2; exit 1")
    broken.chmod(0o755)
    monkeypatch.setattr(compiled, "COMPILERS", ("no-such", str(broken), *compiled.COMPILERS))
    monkeypatch.setattr(compiled, "FLAGS", QUICK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library() is not None
    assert caplog.records == []


@pytest.mark.usefixtures("fresh")
def test_what_was_compiled_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled, "FLAGS", QUICK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library() is not None
    (made,) = tmp_path.rglob("*.so")
    written = made.stat().st_mtime_ns
    compiled.library.cache_clear()
    assert compiled.library() is not None
    assert made.stat().st_mtime_ns == written
