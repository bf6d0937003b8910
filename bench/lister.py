"""`python -m bench.lister PORT TOKEN PATH...`: asks for these lists in a loop, over four connections."""

from __future__ import annotations

import http.client
import sys
import threading
from itertools import cycle

CONNECTIONS = 4


def main() -> None:
    port, token, *paths = sys.argv[1:]
    threads = [
        threading.Thread(target=_loop, args=(int(port), token, paths[number % len(paths) :] + paths))
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()


def _loop(port: int, token: str, paths: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for path in cycle(paths):
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        connection.getresponse().read()


if __name__ == "__main__":
    main()
