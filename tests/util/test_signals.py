"""Signals to end raise, so that what was started is ended."""

from __future__ import annotations

import os
import signal

import pytest

from acmix_nas.util.signals import signals_raise


@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_raises_and_is_given_back(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as ended, signals_raise():
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL
