"""Cloud Tasks over REST, and the OpenID discovery documents of the key that signs ID tokens."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from traced_relay.emulator import rest_mapping
from traced_relay.emulator.errors import ApiError, status_of, unimplemented
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.rest_mapping import request_from
from traced_relay.runtime.loopback import is_from_web_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from traced_relay.emulator.id_tokens import Signer
    from traced_relay.emulator.service import Service

logger = logging.getLogger(__name__)

LARGEST_BODY = 10 * 2**20

# google/rpc/code.proto
HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}


class RestApp:
    """The WSGI application; *issuer* is its own URL."""

    def __init__(self, service: Service, signer: Signer, issuer: str) -> None:
        self._service = service
        self._signer = signer
        self._issuer = issuer

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = LARGEST_BODY
        return self._respond(request)(environ, start_response)

    def _respond(self, request: Request) -> Response:
        try:
            return _json(200, self._document(request))
        except ApiError as exc:
            return _refusal(exc)
        except RequestEntityTooLarge:
            too_large = f"Request payload size exceeds the limit: {LARGEST_BODY} bytes."
            return _refusal(ApiError(grpc.StatusCode.INVALID_ARGUMENT, too_large))
        except Exception:  # the caller gets an error, the log the reason
            logger.exception("%s %s failed", request.method, request.path)
            return _refusal(ApiError(grpc.StatusCode.INTERNAL, "Internal error encountered."))

    def _document(self, request: Request) -> dict[str, Any]:
        if is_from_web_page(request):
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "Web pages of other sites may not use this queue.")
        if request.method == "GET" and (published := self._published(request.path)):
            return published
        found = rest_mapping.find(request.method, request.path)
        if found is None:
            raise ApiError(grpc.StatusCode.NOT_FOUND, "Method not found.")
        rule, name = found
        if rule.method not in METHODS:
            raise unimplemented(rule.method)
        message = request_from(
            METHODS[rule.method].request(), rule, name, _content(request), request.args.items(multi=True)
        )
        return MessageToDict(self._service.call(rule.method, message))

    def _published(self, path: str) -> dict[str, Any] | None:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer}/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        if path == "/jwks":
            return self._signer.jwks()
        if path == "/certs":  # the `certs_url` of google.oauth2.id_token.verify_token
            return dict(self._signer.certificates())
        return None


def _content(request: Request) -> bytes:
    try:
        return request.get_data()
    except (OSError, ValueError) as exc:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "The request body cannot be read.") from exc


def _refusal(error: ApiError) -> Response:
    status = HTTP_STATUS[error.code]
    described = {"code": status, "message": error.message, "status": error.code.name}
    if error.help_links:
        described["details"] = MessageToDict(status_of(error))["details"]
    return _json(status, {"error": described})


def _json(status: int, document: dict[str, Any]) -> Response:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return Response(text, status=status, content_type="application/json; charset=UTF-8")
