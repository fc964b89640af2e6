"""Hints for names that do not exist."""

import difflib


def nearest(name: str, known: list[str]) -> str:
    """A hint with the nearest known names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        tail = name.rsplit(".", maxsplit=1)[-1]
        close = [one for one in known if one.rsplit(".", maxsplit=1)[-1] == tail][:3]
    return f"did you mean {' or '.join(close)}?" if close else "see --help for all names"
