"""
Enqueues jobs of the module that it is given, from eight threads or one after the other.

`python -m bench.call_producer MODULE` runs in the peers' environment and takes commands from stdin, one JSON object
a line. A job has ended when its result can be read in Redis.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import redis

from bench.peer_tracing import THREADS

LOOK_AGAIN, LOOK_AGAIN_ALL = 0.0005, 0.02
PATIENCE = 60.0
REST_BETWEEN = 0.004


def _await(store: redis.Redis, keys: list[bytes], again: float) -> float:
    """The moment at which the last result is there."""
    deadline = time.monotonic() + PATIENCE
    while store.exists(*keys) < len(keys):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {len(keys)} jobs ended in {PATIENCE} s")
        time.sleep(again)
    return time.monotonic()


def main() -> None:
    jobs = importlib.import_module(sys.argv[1])
    store = redis.Redis.from_url(os.environ["BENCH_BROKER"])
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "many":
            began, cpu = time.monotonic(), time.process_time()
            with ThreadPoolExecutor(THREADS) as pool:
                keys = list(pool.map(lambda _: jobs.enqueue(), range(asked["jobs"])))
            enqueued, cpu = time.monotonic() - began, time.process_time() - cpu
            answer = [enqueued, cpu, _await(store, keys, LOOK_AGAIN_ALL) - began]
        else:
            answer = []
            for _ in range(asked["jobs"]):
                began = time.monotonic()
                answer.append(_await(store, [jobs.enqueue()], LOOK_AGAIN) - began)
                time.sleep(REST_BETWEEN)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
