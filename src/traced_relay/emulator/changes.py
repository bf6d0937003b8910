"""What the engine has decided and a store has to keep, in the order of the deciding."""

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


class KeepProgress(NamedTuple):
    serial: int
    progress: tuple[Any, ...]


class DropTask(NamedTuple):
    serial: int


class BuryName(NamedTuple):
    name: str
    until: float


class FreeNames(NamedTuple):
    until: float


Change = PutQueue | DropQueue | PutTask | KeepProgress | DropTask | BuryName | FreeNames


class Kept(NamedTuple):
    """All that a store has kept, oldest first, for an engine to start from."""

    queues: list[Queue]
    tasks: list[tuple[int, Task, bool, tuple[Any, ...] | None]]
    task_names: list[tuple[str, float]]
    queue_names: list[tuple[str, float]]
