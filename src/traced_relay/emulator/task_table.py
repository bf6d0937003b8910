"""The tasks of one queue, by id and in the order of creation."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.emulator.state import TaskState

_BLOCK = 512  # serial numbers


class TaskTable:
    """
    Finds a task by its id, and the tasks that follow a serial number without a walk over those before.

    Tasks are added in the order of their serial numbers.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, TaskState] = {}
        self._blocks: dict[int, dict[int, TaskState]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._by_id

    def get(self, task_id: str) -> TaskState | None:
        return self._by_id.get(task_id)

    def add(self, task: TaskState) -> None:
        self._by_id[task.task_id] = task
        self._blocks.setdefault(task.serial // _BLOCK, {})[task.serial] = task

    def remove(self, task: TaskState) -> None:
        del self._by_id[task.task_id]
        self._remove_from_block(task)

    def pop(self) -> TaskState:
        """Remove the newest task and return it."""
        _, task = self._by_id.popitem()
        self._remove_from_block(task)
        return task

    def after(self, serial: int) -> Iterator[TaskState]:
        """The tasks with higher serial numbers, oldest first."""
        first = serial // _BLOCK
        blocks = (block.values() for number, block in self._blocks.items() if number >= first)
        return (task for task in chain.from_iterable(blocks) if task.serial > serial)

    def _remove_from_block(self, task: TaskState) -> None:
        number = task.serial // _BLOCK
        block = self._blocks[number]
        del block[task.serial]
        if not block:
            del self._blocks[number]
