"""Whether a teacher is named by a folder or by an address.  No torch here."""

from __future__ import annotations

from pathlib import Path


def is_url(reference: str | Path) -> bool:
    """Whether a teacher is named by the address of a service."""
    return str(reference).startswith(("http://", "https://"))
