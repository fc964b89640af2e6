"""What a user should know of how an input was read."""

import contextlib
import sys
from collections.abc import Iterator

_SAID: set[str] = set()
_LISTENERS: list[list[str]] = []


def note(text: str) -> None:
    """Say on the standard error output what was guessed, replaced or left out; once per process."""
    for one in _LISTENERS:
        if text not in one:
            one.append(text)
    if text not in _SAID:
        _SAID.add(text)
        sys.stderr.write(f"note: {text}\n")


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collect what is noted meanwhile, printed before or not: the report repeats it."""
    notes: list[str] = []
    _LISTENERS.append(notes)
    try:
        yield notes
    finally:
        _LISTENERS[:] = [one for one in _LISTENERS if one is not notes]
