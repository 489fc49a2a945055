"""What the user can put right: one line on standard error, exit status 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's. The message is one line: what, where, what is allowed."""
