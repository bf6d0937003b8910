"""SIGINT and SIGTERM for commands that run until they are told to end."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def stop_signal() -> Callable[[], str]:
    """
    Catch SIGINT and SIGTERM from now on; the function returned waits for one of them and names it.

    The interpreter writes the signal's number to a socket. A lock would miss a signal that comes just before the
    main thread waits for it, and then the process would never end.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def wait() -> str:
        with receiver, sender:
            name = signal.Signals(receiver.recv(1)[0]).name
            signal.set_wakeup_fd(-1)
            return name

    return wait
