"""Cloud Tasks over REST, and the OpenID discovery documents of the key that signs ID tokens."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import exception_class_for_grpc_status
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from traced_relay.emulator import rest_mapping
from traced_relay.emulator.errors import ApiError, invalid, status_of, unimplemented
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


class RestApp:
    """The WSGI application; *issuer* is its own URL."""

    def __init__(self, service: Service, signer: Signer, issuer: str) -> None:
        self._service = service
        self._published: dict[str, dict[str, Any]] = {
            "/.well-known/openid-configuration": {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/jwks": signer.jwks(),
            "/certs": dict(signer.certificates()),  # the `certs_url` of google.oauth2.id_token.verify_token
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = LARGEST_BODY
        try:
            response = _json(200, self._document(request))
        except ApiError as exc:
            response = _refusal(exc)
        except Exception:  # the caller gets an error, the log the reason
            logger.exception("%s %s failed", request.method, request.path)
            response = _refusal(ApiError(StatusCode.INTERNAL, "Internal error encountered."))
        return response(environ, start_response)

    def _document(self, request: Request) -> dict[str, Any]:
        if is_from_web_page(request):
            raise ApiError(StatusCode.PERMISSION_DENIED, "Web pages of other sites may not use this queue.")
        if request.method == "GET" and request.path in self._published:
            return self._published[request.path]
        rule, name = rest_mapping.find(request.method, request.path)
        if rule.method not in METHODS:
            raise unimplemented(rule.method)
        message = request_from(
            METHODS[rule.method].request(), rule, name, _content(request), request.args.items(multi=True)
        )
        return MessageToDict(self._service.call(rule.method, message))


def _content(request: Request) -> bytes:
    try:
        return request.get_data()
    except RequestEntityTooLarge as exc:
        raise invalid(f"Request payload size exceeds the limit: {LARGEST_BODY} bytes.") from exc
    except (OSError, ValueError) as exc:
        raise invalid("The request body cannot be read.") from exc


def _refusal(error: ApiError) -> Response:
    status = int(exception_class_for_grpc_status(error.code).code or 500)  # type: ignore[no-untyped-call]
    described = {"code": status, "message": error.message, "status": error.code.name}
    if error.help_links:
        described["details"] = MessageToDict(status_of(error))["details"]
    return _json(status, {"error": described})


def _json(status: int, document: dict[str, Any]) -> Response:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return Response(text, status=status, content_type="application/json; charset=UTF-8")
