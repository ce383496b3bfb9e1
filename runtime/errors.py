"""One kind of error for everything that the user can put right."""

from __future__ import annotations

EXIT_BAD_INPUT = 2


class UserError(Exception):
    """Bad input: one sentence that names the file or option and the remedy.  The command exits with code 2."""
