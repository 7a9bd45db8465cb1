"""Errors that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input or configuration; the message names the file, line or value and the way out.

    Entry points print the message without a traceback and exit with status 2.
    """
