"""Waiting for input on many sockets, each of which is reported to one thread at a time."""

from __future__ import annotations

import select
import socket
import sys

if sys.platform == "linux":

    class Poller:
        """A socket is reported once after each `arm`. Any thread may call any method."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def add(self, descriptor: int) -> None:
            """Watch *descriptor*, which must be new, and arm it."""
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

        def arm(self, descriptor: int) -> None:
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

        def wait(self) -> int:
            """The next descriptor with input, of which the kernel tells the thread that has waited least."""
            while True:
                for descriptor, _ in self._epoll.poll(-1, 1):
                    return descriptor

        def close(self) -> None:
            self._epoll.close()

else:

    class Poller:
        """A socket is reported once after each `arm`. Any thread may call any method."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()

        def arm(self, descriptor: int) -> None:
            event = select.kevent(descriptor, select.KQ_FILTER_READ, select.KQ_EV_ADD | select.KQ_EV_ONESHOT)
            self._kqueue.control([event], 0)

        add = arm

        def wait(self) -> int:
            """The next descriptor with input."""
            while True:
                for event in self._kqueue.control(None, 1, None):
                    return event.ident

        def close(self) -> None:
            self._kqueue.close()


def has_input(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
