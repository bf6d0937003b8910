"""
gcloud without its start: a process that has it imported, and forks for each command that is asked of it on a socket.

Run by gcloud's own Python as `gcloud_forks.py SDK SOCKET`; what a command does, prints and returns is gcloud's.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

# What most commands import before they do anything.
WARM = (
    *("calliope.cli", "calliope.backend", "calliope.display", "command_lib.util.apis.yaml_command_translator"),
    *("core.credentials.transports", "core.credentials.store", "core.resource.resource_printer", "core.yaml"),
    *("api_lib.iam.util", "command_lib.iam.iam_util", "api_lib.tasks", "api_lib.firestore.indexes"),
    *("command_lib.crash_handling", "api_lib.monitoring.policies", "api_lib.logging.util", "core.survey.survey_check"),
)


def load(sdk: str) -> Any:
    """The module that `gcloud` runs, with what its commands share."""
    spec = importlib.util.spec_from_file_location("gcloud", f"{sdk}/lib/gcloud.py")
    gcloud = importlib.util.module_from_spec(spec)
    sys.modules["gcloud"] = gcloud
    spec.loader.exec_module(gcloud)
    sys.path = gcloud.reorder_sys_path(sys.path)
    gcloud._fix_google_module()
    gcloud._import_gcloud_main()
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"googlecloudsdk.{name}")
    return gcloud


def command(gcloud: Any, asked: socket.socket) -> int:
    text, files, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    given = json.loads(text)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environ"])
    sys.argv = ["gcloud", *given["arguments"]]
    try:
        gcloud.main()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    except BaseException:  # noqa: BLE001  (a fork must not go on as the server)
        traceback.print_exc()
        return 1
    return 0


def serve(gcloud: Any, path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            asked, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                status = command(gcloud, asked)
                sys.stdout.flush()
                sys.stderr.flush()
                asked.sendall(bytes([status]))
                os._exit(status)
            asked.close()


if __name__ == "__main__":
    serve(load(sys.argv[1]), sys.argv[2])
