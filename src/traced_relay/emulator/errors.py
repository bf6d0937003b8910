"""The errors of the API. Codes and texts are those recorded from production, where it has the error."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import Help
from google.rpc.status_pb2 import Status
from grpc import StatusCode


class ApiError(Exception):
    """A refused request; gRPC and REST convert it to their own form of status, text and details."""

    def __init__(self, code: StatusCode, message: str, *, help_links: tuple[Help.Link, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help_links = help_links


def invalid(message: str, *, help_links: tuple[Help.Link, ...] = ()) -> ApiError:
    return ApiError(StatusCode.INVALID_ARGUMENT, message, help_links=help_links)


def unimplemented(what: str) -> ApiError:
    return ApiError(StatusCode.UNIMPLEMENTED, f"{what} is not implemented by the embedded queue.")


def not_found() -> ApiError:
    return ApiError(StatusCode.NOT_FOUND, "Requested entity was not found.")


def task_existed_recently() -> ApiError:
    return ApiError(
        StatusCode.NOT_FOUND,
        "The task no longer exists, though a task with this name existed recently. "
        "The task either successfully completed or was deleted.",
    )


def status_of(error: ApiError) -> Status:
    detail = Any()
    detail.Pack(Help(links=error.help_links))
    return Status(code=error.code.value[0], message=error.message, details=[detail])
