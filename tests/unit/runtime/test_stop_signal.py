from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The signal is pending when the wait begins: nothing that only a wait would notice may be lost.
EARLY = """
import os, signal
from traced_relay.runtime.stop_signal import stop_signal
with stop_signal() as wait:
    os.kill(os.getpid(), {number})
    print(wait())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_wait_ends_it(number: signal.Signals) -> None:
    script = EARLY.format(number=int(number))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == f"{number.name}\n"
