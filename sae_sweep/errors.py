"""The errors that a user can cause or meet; everything else is a bug of ours."""

import errno
import re

CREDENTIALS = re.compile(r"(://[^:/@\s]*:)[^@\s]+@|(password=)[^&\s'\"]+")


def without_passwords(text: str) -> str:
    """Hide the passwords of database URLs wherever they stand in a text."""
    return CREDENTIALS.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", text)


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that act on a terminal or turn a text around; a line's end and a tab may stand."""


def printable(text: str) -> str:
    """Show control characters as their escapes in Python, so that no text acts on a terminal."""
    return CONTROL.sub(lambda m: m[0].encode("unicode_escape", "surrogatepass").decode(), text)


class BadInput(ValueError):  # noqa: N818  (it reads as what it says: exit code 2, one message)
    """A setting, file or place that cannot be used: says which, its value, and the way out."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(without_passwords(message)))


class NoStore(BadInput):
    """Nothing has been recorded yet at the place that was named."""


class BadRows(BadInput):
    """Activations that cannot be trained on or stored."""


class CutShort(BadInput):
    """What a sweep needs has failed on its way; when it is mended, the same command continues."""


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def lacks_room(error: BaseException) -> bool:
    """Whether a file could not grow: for the disk, a quota, or a limit of the process."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def lacks_processes(error: BaseException) -> bool:
    """Whether a thread or a process could not be started, as at a limit (ulimit -u)."""
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)
