"""
Google's REST APIs as far as our scripts ask them, on loopback: what was asked, and what was answered, is written down.

Both are held against Google's own description of its APIs; what differs is in *problems*.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.discovery import answer_problems, request_problems
from support.google_resources import Refused, Resources
from support.parts import require

APIS = (
    *("serviceusage", "appengine", "iam", "cloudresourcemanager", "cloudtasks", "secretmanager", "logging"),
    *("monitoring", "storage", "firestore", "cloudscheduler"),
)
FORKS = Path(__file__).with_name("gcloud_forks.py")
ASK = """#!{python} -SI
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect("{socket}")
given = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environ": dict(os.environ)}}
socket.send_fds(asked, [json.dumps(given).encode()], [0, 1, 2])
sys.exit(asked.recv(1)[0])
"""


@dataclass(frozen=True)
class Asked:
    """One request, and the answer's status."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    status: int

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_change(self) -> bool:
        return self.method != "GET" and not self.path.endswith(":getIamPolicy")


class GoogleStandIn:
    """*fails* may name the status with which a request, `METHOD api/path`, is refused."""

    def __init__(self) -> None:
        self.resources = Resources()
        self.asked: list[Asked] = []
        self.problems: list[str] = []
        self.fails: dict[str, int] = {}
        self._lock = threading.Lock()
        stand_in = self

        class Answering(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, document = stand_in.answer(self.command, self.path, self.rfile.read(length))
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815  (the names that http.server calls)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environ(self, directory: Path, programs: str = "") -> dict[str, str]:
        """What makes gcloud ask here, as nobody; *programs* goes before the PATH."""
        require("gcloud")
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        given = {
            "PATH": f"{programs}:{os.environ['PATH']}".lstrip(":"),
            "HOME": str(directory),
            "CLOUDSDK_CONFIG": str(directory / ".config"),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        }
        return given | {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}": f"{address}/{api}/" for api in APIS}

    def as_proxy(self) -> dict[str, str]:
        """What sends gcloud here for Cloud Run, too: before the host it puts the region, so that is another."""
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://run.googleapis.com/run/",
            "CLOUDSDK_PROXY_TYPE": "http",
            "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
            "CLOUDSDK_PROXY_PORT": str(self._server.server_address[1]),
        }

    def answer(self, method: str, target: str, content: bytes) -> tuple[int, dict[str, Any]]:
        url = urlsplit(target)
        path, query = url.path.strip("/"), parse_qs(url.query, keep_blank_values=True)
        body = _uploaded(content) if path.startswith("upload/") else json.loads(content or b"null")
        what = f"{method} {path}"
        with self._lock:
            try:
                if path.startswith("upload/"):
                    path = path.replace("upload/storage/v1/", "storage/")
                else:
                    self._check(what, request_problems(method, *_split(path), query, body))
                if (status := self.fails.get(what)) is not None:
                    raise Refused(status, f"refused by the test: {what}")
                document = self.resources.answer(method, path, query, body)
                self._check(what, answer_problems(method, *_split(path), document))
            except Refused as refused:
                self.asked.append(Asked(method, path, query, body, refused.status))
                return refused.status, refused.document
            self.asked.append(Asked(method, path, query, body, 200))
            return 200, document

    def _check(self, what: str, found: list[str]) -> None:
        self.problems += [f"{what}: {problem}" for problem in found]

    @property
    def changes(self) -> list[str]:
        return [asked.what for asked in self.asked if asked.is_change]


class ForkedGcloud:
    """The machine's gcloud, imported once; *programs* is a directory with a `gcloud` that asks it."""

    def __init__(self, directory: Path) -> None:
        sdk, python = _installation()
        self.programs = str(directory)
        socket = directory / "socket"
        program = directory / "gcloud"
        program.write_text(ASK.format(python=sys.executable, socket=socket))
        program.chmod(0o755)
        self._process = subprocess.Popen([python, "-S", FORKS, sdk, socket], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


@cache
def _installation() -> tuple[str, str]:
    form = "--format=value(installation.sdk_root,basic.python_location)"
    said = subprocess.run([require("gcloud"), "info", form], capture_output=True, text=True, check=True).stdout
    sdk, python = said.split()
    return sdk, python


def _split(path: str) -> tuple[str, str]:
    """The API, and the path that it describes."""
    api, _, rest = path.partition("/")
    return api, rest


def _uploaded(content: bytes) -> dict[str, str]:
    """An upload's size, found by hand: gcloud writes its boundary in a way that the email package does not read."""
    boundary, _, rest = content.partition(b"\n")
    file = rest.split(b"\n" + boundary.rstrip() + b"\n")[1]
    return {"size": str(len(file.partition(b"\n\n")[2].rpartition(b"\n" + boundary.rstrip() + b"--")[0]))}
