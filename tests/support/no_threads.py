"""A process that can start no thread, as under a limit of processes or of memory."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE_THAN_THERE_IS = 1 << 47  # bytes of stack


@contextmanager
def no_new_threads() -> Iterator[None]:
    """The kernel refuses each new thread of this process, since it has no room for its stack."""
    before = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(before)
