"""
Whether a request, or an answer, is one that Google's discovery documents describe: method, query, fields, types, words.

They lie in google-api-python-client, of which nothing is run. They do not know filters, roles, or rules between fields.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMS = {
    "google-duration": re.compile(r"-?\d{1,12}(\.\d{1,9})?s"),
    "google-datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    "google-fieldmask": re.compile(r"[\w.,*`-]+"),
    "int64": re.compile(r"-?\d+"),
    "uint64": re.compile(r"\d+"),
}
TYPES = {"integer": int, "number": (int, float), "boolean": bool, "string": str, "array": list, "object": dict}


@cache
def document(api: str, version: str) -> dict[str, Any]:
    found = importlib.util.find_spec("googleapiclient")
    assert found is not None, "google-api-python-client is not installed"
    assert found.origin is not None
    path = Path(found.origin).parent / "discovery_cache" / "documents" / f"{api}.{version}.json"
    described: dict[str, Any] = json.loads(path.read_text())
    return described


def methods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from resource.get("methods", {}).values()
    for inner in resource.get("resources", {}).values():
        yield from methods(inner)


@cache
def known(api: str, version: str) -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Every method with what its path looks like."""
    found = []
    for method in methods(document(api, version)):
        parts = re.split(r"\{[^}]*\}", method.get("flatPath", method["path"]))
        found.append((re.compile("[^/:]+".join(map(re.escape, parts))), method))
    return found


def method_of(verb: str, api: str, path: str) -> tuple[dict[str, Any], str]:
    """The method that is asked for, and the version of its API; *path* is without the API."""
    version = path.partition("/")[0]
    if api == "storage" or version == "apis":  # `apis`: Cloud Run, as Knative has it
        version = "v1"
    for pattern, method in known(api, version):
        if method["httpMethod"] == verb and pattern.fullmatch(path):
            return method, version
    raise LookupError(f"{api} has no {verb} {path}")


def request_problems(verb: str, api: str, path: str, query: dict[str, list[str]], body: Any) -> list[str]:
    try:
        method, version = method_of(verb, api, path)
    except (LookupError, FileNotFoundError) as exc:
        return [str(exc)]
    described = document(api, version)
    allowed = described["parameters"] | method.get("parameters", {})
    found = [f"query: {name} is not known" for name in query if name not in allowed]
    for name in query.keys() & allowed.keys():
        for text in query[name]:
            found += problems(described, allowed[name], read(text, allowed[name]), f"query: {name}")
    found += [
        f"query: {name} is missing"
        for name, parameter in allowed.items()
        if parameter.get("required") and parameter["location"] == "query" and name not in query
    ]
    if body is not None and "request" not in method:
        found.append("body: none is expected")
    elif body is not None:
        found += problems(described, method["request"], body, "body")
        found += mask_problems(described["schemas"][method["request"]["$ref"]], query.get("updateMask", []))
    return found


def answer_problems(verb: str, api: str, path: str, answer: Any) -> list[str]:
    method, version = method_of(verb, api, path)
    return problems(document(api, version), method["response"], answer, "answer") if "response" in method else []


def read(text: str, parameter: dict[str, Any]) -> Any:
    """A query's text as the type that it stands for, where it can be read as that."""
    is_json = parameter.get("type") in ("integer", "number", "boolean")
    return json.loads(text.lower()) if is_json and re.fullmatch(r"-?[\d.]+|[Tt]rue|[Ff]alse", text) else text


def mask_problems(schema: dict[str, Any], masks: list[str]) -> list[str]:
    paths = [path for mask in masks for path in mask.split(",")]
    return [f"updateMask: {path} is no field" for path in paths if path.partition(".")[0] not in schema["properties"]]


def problems(described: dict[str, Any], schema: dict[str, Any], value: Any, at: str) -> list[str]:
    """What of *value* is not as its *schema* has it, each with the place where it is."""
    schema = described["schemas"][schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type", "any")
    if kind == "any":
        return []
    is_number_as_text = schema.get("format") in ("int64", "uint64") and type(value) is int
    is_of_kind = isinstance(value, TYPES[kind]) or is_number_as_text
    if not is_of_kind or (type(value) is bool) != (kind == "boolean"):
        return [f"{at}: {value!r} is no {kind}"]
    if kind == "array":
        return [
            p
            for number, item in enumerate(value)
            for p in problems(described, schema["items"], item, f"{at}[{number}]")
        ]
    if kind == "object":
        return [p for key, item in value.items() for p in field_problems(described, schema, key, item, at)]
    return word_problems(schema, value, at)


def field_problems(described: dict[str, Any], schema: dict[str, Any], key: str, value: Any, at: str) -> list[str]:
    inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
    if inner is None:
        return [f"{at}: {key} is no field of {schema.get('id', 'it')}"]
    return [] if value is None else problems(described, inner, value, f"{at}.{key}")


def word_problems(schema: dict[str, Any], value: Any, at: str) -> list[str]:
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of its words"]
    form = schema.get("format")
    if form == "byte" and not is_base64(value):
        return [f"{at}: {value!r} is not base64"]
    if form in FORMS and not FORMS[form].fullmatch(str(value)):
        return [f"{at}: {value!r} is no {form}"]
    return []


def is_base64(text: str) -> bool:
    try:
        base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except binascii.Error:
        return False
    return True
