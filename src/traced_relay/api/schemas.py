"""JSON Schemas (2020-12) of the API's requests and responses, made from their models and from `tasks/api_types`."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic.json_schema import models_json_schema

from traced_relay.tasks import api_types
from traced_relay.tasks.call import RetryPolicy
from traced_relay.tasks.enqueue_request import EnqueueRequest

Schema = dict[str, Any]

MAX_BATCH = 100
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_RESPONSES = (
    *(api_types.Receipt, api_types.ReceiptLinks, api_types.BatchResponse, api_types.Problem, api_types.FieldProblem),
    *(api_types.TaskList, api_types.Summary, api_types.Status, api_types.Attempt, api_types.Response),
    *(api_types.CallbackState, api_types.Links, api_types.QueueList, api_types.QueueStatus, api_types.Health),
)


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, Schema]:
    """All components by name."""
    # The serialized form, because its defaults are what a caller would write ("5m", not 300.0).
    _, definitions = models_json_schema(
        [(EnqueueRequest, "serialization"), (RetryPolicy, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    models: dict[str, Schema] = definitions["$defs"]
    requests = {name: _with_nulls(models[name]) for name in ("EnqueueRequest", "RetryRequest", "Callback")}
    return (
        models | requests | {"BatchRequest": _batch_request()} | {kind.__name__: _object(kind) for kind in _RESPONSES}
    )


def fields(document: type) -> dict[str, Schema]:
    """The schema of each field of a TypedDict."""
    return {name: schema_of(hint) for name, hint in get_type_hints(document, include_extras=True).items()}


def schema_of(hint: Any) -> Schema:
    """The schema of an annotation; what its Doc says has precedence over what its type implies."""
    if is_typeddict(hint):
        return ref(hint.__name__)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        documented = schema_of(arguments[0])
        for doc in hint.__metadata__:
            documented |= doc.schema
        return documented
    if origin is NotRequired:
        return schema_of(arguments[0])
    if origin in (Union, UnionType):
        return _any_of([schema_of(argument) for argument in arguments if argument is not type(None)], arguments)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    return {} if hint is Any else {"type": _TYPES[hint]}


def _any_of(schemas: list[Schema], arguments: tuple[Any, ...]) -> Schema:
    if type(None) not in arguments:
        return {"anyOf": schemas}
    (schema,) = schemas
    return {"anyOf": [schema, {"type": "null"}]} if "$ref" in schema else _or_null(schema)


def _object(document: Any) -> Schema:
    """An object that has all of its required fields; later versions may add fields."""
    properties = fields(document)
    return {
        "type": "object",
        "description": inspect.getdoc(document),
        "properties": properties,
        "required": [name for name in properties if name in document.__required_keys__],
    }


def _batch_request() -> Schema:
    tasks = {"type": "array", "maxItems": MAX_BATCH, "items": ref("EnqueueRequest")}
    return {
        "type": "object",
        "description": "The body of `POST /v1/tasks:batch`.",
        "properties": {
            "tasks": {"description": f"At most {MAX_BATCH} calls; each is accepted or refused alone.", **tasks}
        },
        "required": ["tasks"],
        "additionalProperties": False,
    }


def _with_nulls(schema: Schema) -> Schema:
    """Allow null, which means "not given", for every optional field, header and label."""
    properties = {
        name: field if name in schema.get("required", ()) else _or_null(field)
        for name, field in schema["properties"].items()
    }
    return schema | {"properties": properties}


def _or_null(field: Schema) -> Schema:
    if isinstance(field.get("additionalProperties"), dict):
        field = field | {"additionalProperties": _or_null(field["additionalProperties"])}
    nullable: Schema = {"enum": [*field["enum"], None]} if "enum" in field else {}
    if "type" in field:
        nullable["type"] = [field["type"], "null"]
    return field | nullable
