"""Settings in messages and help: values as they are typed, hints for unknown names."""

import difflib
from typing import Any

METRIC_NAMES = "`help metrics` for all names"


def nearest(name: str, known: list[str], lists: str = "--help for all names") -> str:
    """A hint with the nearest known names; `lists` says what names all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        tail = name.rsplit(".", maxsplit=1)[-1]
        close = [one for one in known if one.rsplit(".", maxsplit=1)[-1] == tail][:3]
    return f"did you mean {' or '.join(close)}?" if close else f"see {lists}"


def in_words(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case "" | []:
            return "empty"
        case dict() if not value:
            return "empty"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
