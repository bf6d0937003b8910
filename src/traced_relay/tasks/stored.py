"""The base of what a ledger stores."""

from __future__ import annotations

from typing import Any, Self

import msgspec
from msgspec.structs import replace


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    An immutable value. Nothing checks its types when it is made; the ledger's codec checks them when it reads one.

    Fields that a later version wrote are ignored, so that a rollback can read its rows. A default is never changed,
    because it is not written.
    """

    def changed(self, **update: Any) -> Self:
        """A copy with these fields replaced."""
        return replace(self, **update)
