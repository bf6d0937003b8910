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

OTHERS = """
import os, signal
from traced_relay.runtime.stop_signal import stop_signal
for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD):
    signal.signal(number, lambda *_: None)
with stop_signal() as wait:
    for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD, signal.SIGTERM):
        os.kill(os.getpid(), number)
    print(wait())
"""


def test_a_signal_that_ends_nothing_is_passed_over() -> None:
    ended = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == "SIGTERM\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_wait_ends_it(number: signal.Signals) -> None:
    script = EARLY.format(number=int(number))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout == f"{number.name}\n"
