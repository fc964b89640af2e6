"""The errors that a user can cause or meet; everything else is a bug of ours."""

import re

CREDENTIALS = re.compile(r"(://[^:/@\s]*:)[^@\s]+@|(password=)[^&\s'\"]+")


def without_passwords(text: str) -> str:
    """Hide the passwords of database URLs wherever they stand in a text."""
    return CREDENTIALS.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", text)


class BadInput(ValueError):  # noqa: N818  (it reads as what it says: exit code 2, one message)
    """A setting, file or place that cannot be used: says which, its value, and the way out."""

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


class NoStore(BadInput):
    """Nothing has been recorded yet at the place that was named."""
