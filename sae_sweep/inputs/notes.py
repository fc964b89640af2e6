"""What a user should know of how an input was read."""

import sys

_SAID: set[str] = set()


def note(text: str) -> None:
    """Say on the standard error output what was guessed, replaced or left out; once per process."""
    if text not in _SAID:
        _SAID.add(text)
        sys.stderr.write(f"note: {text}\n")
