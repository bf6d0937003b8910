"""Sizes above which the API and the dispatch refuse a request, in bytes."""

from __future__ import annotations

MAX_REQUEST = 900_000
MAX_DISPATCH = 1_200_000  # Cloud Tasks stores up to 1 MiB
