"""The changes that the engine hands to the store, in the order of its decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from traced_relay.emulator.messages import Queue, Task


class PutQueue(NamedTuple):
    message: Queue


class DropQueue(NamedTuple):
    name: str
    until: float


class PutTask(NamedTuple):
    serial: int
    message: Task
    is_named: bool


class SaveProgress(NamedTuple):
    serial: int
    progress: tuple[Any, ...]


class DropTask(NamedTuple):
    serial: int


class PutPurge(NamedTuple):
    """The tasks of queue *name* up to *serial* are gone; the names that callers chose stay reserved until *until*."""

    name: str
    serial: int
    until: float | None


class DropPurge(NamedTuple):
    """All rows of these tasks are dropped."""

    name: str
    serial: int


class AddTombstone(NamedTuple):
    name: str
    until: float


class ExpireTombstones(NamedTuple):
    until: float


Change = (
    PutQueue | DropQueue | PutTask | SaveProgress | DropTask | PutPurge | DropPurge | AddTombstone | ExpireTombstones
)


class StoredState(NamedTuple):
    """The content of a store, oldest first, from which an engine starts."""

    queues: list[Queue]
    tasks: list[tuple[int, Task, bool, tuple[Any, ...] | None]]
    task_names: list[tuple[str, float]]
    queue_names: list[tuple[str, float]]
    purges: tuple[PutPurge, ...] = ()
