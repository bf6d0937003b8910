"""Serialization of rows for every ledger: a JSON document, the bodies beside it, and the columns for queries."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, ValidationError

from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import FILTERS
from traced_relay.tasks.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

STORED = ("document", "noted_attempt", "callback_ended_at")
_FOUND_BY = (*FILTERS, "next_attempt_at", "worker", "round", "callback_ended_at", "revision")


def columns_of(row: Row) -> dict[str, Any]:
    """The columns that every change of the row rewrites: those for queries, and the *document*."""
    return {name: getattr(row, name) for name in _FOUND_BY} | {"document": _document(row)}


def _document(row: Row) -> str:
    """
    The row as JSON, without the bodies, since every change rewrites it, and without what changes on its own.

    A field that has its default is left out.
    """
    response = row.response and row.response.changed(body=b"")
    changed_apart = {"noted_attempt": 0, "callback_ended_at": None}
    return _encoder.encode(row.changed(call=row.call.changed(body=b""), response=response, **changed_apart)).decode()


def row_of(stored: Iterable[Any], body: bytes = b"", response_body: bytes = b"") -> Row:
    """The row from its *stored* values of STORED; *body* is the call's, *response_body* the response's."""
    document, noted_attempt, callback_ended_at = stored
    try:
        row = _decoder.decode(document)
    except msgspec.DecodeError as exc:
        raise Unavailable(f"the ledger contains a row that this version cannot read{_place(exc)}") from None
    call = row.call.changed(body=body) if body else row.call
    response = row.response.changed(body=response_body) if row.response and response_body else row.response
    return row.changed(call=call, response=response, noted_attempt=noted_attempt, callback_ended_at=callback_ended_at)


def _place(exc: msgspec.DecodeError) -> str:
    """Where the document has a wrong value; the rest of the text would quote it."""
    _, found, place = str(exc).rpartition(" - at `")
    return f", at `{place}" if found else ""


@lru_cache(maxsize=1000)
def _encode_model(value: BaseModel) -> dict[str, Any]:
    """A model of the border that a row contains, such as the retry policy, as JSON has it."""
    return value.model_dump(mode="json")


def _decode_model(model: type[BaseModel], value: Any) -> BaseModel:
    return _validated(model, msgspec.json.encode(value))


@lru_cache(maxsize=1000)
def _validated(model: type[BaseModel], value: bytes) -> BaseModel:
    try:
        return model.model_validate_json(value, extra="ignore")
    except ValidationError as exc:
        raise ValueError(f"{exc.error_count()} problems in {model.__name__}") from None  # its text would quote values


_encoder = msgspec.json.Encoder(enc_hook=_encode_model)
_decoder = msgspec.json.Decoder(Row, dec_hook=_decode_model)
