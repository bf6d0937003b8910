import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.rig import HTTP, LOCATION, QUEUE, refusal
from traced_relay.emulator import messages as m
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.service import Service
from traced_relay.emulator.store import Store
from traced_relay.runtime.clock import ManualClock


def create(service: Service, task_id: str, size: int) -> str:
    """The code of the refusal, or OK."""
    task = m.Task(name=f"{QUEUE}/tasks/{task_id}", http_request={**HTTP, "body": b"x" * size})
    try:
        service.call("CreateTask", METHODS["CreateTask"].request(parent=QUEUE, task=task))
    except ApiError as exc:
        return refusal(exc)[0]
    return "OK"


def survivors(path: Path, copies: Path) -> list[str]:
    """The tasks that a process would find if this one were killed now."""
    copies.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, copies / file.name)
    store = Store(copies / path.name)
    found = [message.name.rpartition("/")[2] for _, message, *_ in store.load().tasks]
    store.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "queue.db"


def test_a_task_refused_on_a_full_disk_exists_only_once_stored(path: Path, tmp_path: Path) -> None:
    store = Store(path)
    service = Service(ManualClock(), store)
    service.call("CreateQueue", METHODS["CreateQueue"].request(parent=LOCATION, queue=m.Queue(name=QUEUE)))
    assert create(service, "before", 10) == "OK"
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages + 5}")

    assert create(service, "large", 500_000) == "UNAVAILABLE"
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(create, service, "large", 500_000)
        assert create(service, "small", 10) == "UNAVAILABLE"
        assert again.result() == "UNAVAILABLE"
    assert survivors(path, tmp_path / "full") == ["before"]

    store._connection.execute("PRAGMA max_page_count=100000")
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(create, service, "large", 500_000)
        assert create(service, "after", 10) == "OK"
        assert again.result() == "ALREADY_EXISTS"
    assert survivors(path, tmp_path / "roomy") == ["before", "large", "small", "after"]
    assert create(service, "small", 10) == "ALREADY_EXISTS"
    store.close()
