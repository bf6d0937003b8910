"""
Firestore's rules about indexes, as strict as they are documented: which of its queries would be refused.

A field has its own indexes unless a file of indexes says otherwise. Equality alone is served by merging those. With an
order there must be composite indexes that all end in this order, and begin with the fields that are to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.cloud.firestore_v1 import types

_Direction = types.StructuredQuery.Direction
_Operator = types.StructuredQuery.FieldFilter.Operator
_RANGES = {_Operator.LESS_THAN, _Operator.LESS_THAN_OR_EQUAL, _Operator.GREATER_THAN, _Operator.GREATER_THAN_OR_EQUAL}

Field = tuple[str, str]  # a path, and ASCENDING, DESCENDING or CONTAINS


@dataclass(frozen=True)
class Asked:
    """What of a query matters to an index: what has to be equal (or contained), and the order, a range's included."""

    collection: str
    equal: frozenset[Field]
    order: tuple[Field, ...]


def asked(query: types.StructuredQuery) -> Asked:
    filters = _filters(query.where)
    equal = {(path, "EQUAL") for path, operator in filters if operator == _Operator.EQUAL}
    equal |= {(path, "CONTAINS") for path, operator in filters if operator == _Operator.ARRAY_CONTAINS}
    ranges = {path for path, operator in filters if operator in _RANGES}
    assert len(filters) == len([1 for _, operator in filters if operator in _RANGES]) + len(equal), (
        "an operator unknown here"
    )
    order = [(each.field.field_path, _Direction(each.direction).name) for each in query.order_by]
    if order == [("__name__", "ASCENDING")]:  # every collection and every index of one field is kept in this order
        order, ranges = [], ranges - {"__name__"}
    order = order or [(path, "ASCENDING") for path in ranges]
    last = order[-2:] if order and order[-1][0] == "__name__" else []
    assert not last or last[0][1] == last[-1][1], "__name__ has to follow the order before it"
    order = [each for each in order if each[0] != "__name__"]
    assert ranges <= {path for path, _ in order[:1]}, "a range has to be what is ordered by"
    return Asked(query.from_[0].collection_id, frozenset(equal), tuple(order))


def _filters(where: Any) -> list[tuple[str, int]]:
    if where.composite_filter.filters:
        assert where.composite_filter.op == types.StructuredQuery.CompositeFilter.Operator.AND
        return [one for each in where.composite_filter.filters for one in _filters(each)]
    one = where.field_filter
    return [(one.field.field_path, one.op)] if one.field.field_path else []


def is_served(query: Asked, indexes: dict[str, Any]) -> bool:
    if not query.order or (not query.equal and len(query.order) == 1):
        wanted = query.order or tuple(
            (path, "CONTAINS" if how == "CONTAINS" else "ASCENDING") for path, how in query.equal
        )
        return all(_has_its_own(query.collection, field, indexes) for field in wanted)
    served: set[Field] = set()
    for fields in _composites(query.collection, indexes):
        beginning = {(path, "CONTAINS" if how == "CONTAINS" else "EQUAL") for path, how in fields[: -len(query.order)]}
        if fields[-len(query.order) :] == query.order and beginning <= query.equal:
            served |= beginning
    return served == query.equal


def _has_its_own(collection: str, field: Field, indexes: dict[str, Any]) -> bool:
    path, how = field
    for said in indexes["fieldOverrides"]:
        if (said["collectionGroup"], said["fieldPath"]) == (collection, path):
            return any(how in (index.get("order"), index.get("arrayConfig")) for index in said["indexes"])
    return True


def _composites(collection: str, indexes: dict[str, Any]) -> list[tuple[Field, ...]]:
    return [
        tuple((field["fieldPath"], field.get("order") or field["arrayConfig"]) for field in index["fields"])
        for index in indexes["indexes"]
        if (index["collectionGroup"], index["queryScope"]) == (collection, "COLLECTION")
    ]
