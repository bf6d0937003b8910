"""A refusal with help links as google.rpc.Status, which both surfaces carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import Help
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    from traced_relay.emulator.errors import ApiError


def status_of(error: ApiError) -> Status:
    links = [Help.Link(description=link.description, url=link.url) for link in error.help_links]
    detail = Any()
    detail.Pack(Help(links=links))
    return Status(code=error.code.value[0], message=error.message, details=[detail])
