"""SIGINT and SIGTERM for commands that run until they are stopped."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signal() -> Iterator[Callable[[], str]]:
    """
    Catch SIGINT and SIGTERM; the function yielded waits for the first of them and returns its name.

    The interpreter writes the signal's number to a socket. A lock would miss a signal that comes just before the
    main thread waits for it, and then the process would never end.
    """
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, lambda *_: None)

        def wait() -> str:
            while (number := receiver.recv(1)[0]) not in _ENDING:  # every signal that has a handler comes here
                continue
            return signal.Signals(number).name

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(-1)
