"""
`gcloud beta logging tail` whose entries come from stdin, a LogEntry a line: all else is gcloud's.

Run as `gcloud_tail.py SDK OPTIONS...`, by a Python that has grpc: gcloud's own does not bring it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gcloud_forks import load  # beside this script, which runs by its path

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(sdk: str, *options: str) -> None:
    gcloud = load(sdk)
    from googlecloudsdk.api_lib.logging import tailing
    from googlecloudsdk.api_lib.util import apis

    made = apis.GetGapicClientClass("logging", "v2").types.LogEntry.from_json

    class Tailer:
        def TailLogs(self, *_: Any, **__: Any) -> Iterator[Any]:  # noqa: N802  (the name that gcloud calls)
            for line in sys.stdin:
                yield made(line)

    tailing.LogTailer = Tailer
    sys.argv = ["gcloud", "beta", "logging", "tail", *options]
    gcloud.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
