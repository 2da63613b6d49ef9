"""Errors a user can act on: what was got, what is allowed, where, and the remedy.

Every error raised for a user's mistake is a `UserError`; the command line prints its one line and
exits with 2. Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of an error; a cell of a table, or what is in a file, may be of any length
_LISTED, _NAME = 100, 60  # names that are listed in full, and characters of each


class UserError(Exception):
    r"""A mistake in the input, told in one line: `where: what; remedy`.

    What comes from a file is shown as what it is: line ends, control characters and halves of characters are written
    out (`\n`, `\x1b`), and the middle of what is very long is left out.

    Args:
        what: What was got and what is allowed.
        where: The file, `file:row` or configuration key it was found at.
        remedy: What to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        head = f"{where}: {what}" if where else what
        super().__init__(_one_line(f"{head}; {remedy}" if remedy else head))


class DataError(UserError):
    """A sample or manifest that can't be used as it is."""


class ConfigError(UserError):
    """A configuration key or value that isn't allowed."""


class ModelError(UserError):
    """A model folder, name or weight file that can't be used."""


class MissingDependencyError(UserError):
    """An optional package that the asked-for feature needs."""


def unknown(kind: str, got: str, allowed: Iterable[str]) -> str:
    """Word the message for an unknown name, with the nearest allowed one.

    >>> unknown("router", "imge", ["image", "text"])
    "unknown router 'imge' (did you mean 'image'?); allowed: image, text"
    """
    names = sorted(allowed)
    # Looking for the nearest takes time with the product of lengths: names out of a file may be many and long.
    short = [name for name in names[:1000] if len(name) <= _NAME]
    near = difflib.get_close_matches(got, short, n=1) if len(got) <= _NAME else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    listed = ", ".join(_cut(name, _NAME) for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"unknown {kind} {_cut(got, _NAME)!r}{hint}; allowed: {listed}{more}"


def _one_line(text: str) -> str:
    """Write out what can't be printed, and leave out the middle of what is too long."""
    text = _cut(text, _LONGEST)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def _cut(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"
