"""Signals to end raise, so that what was started is ended."""

from __future__ import annotations

import os
import signal

import pytest

from acmix_nas.nnictl.processes import signals_raise


def test_a_signal_to_end_raises_and_is_given_back() -> None:
    with pytest.raises(SystemExit), signals_raise():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
