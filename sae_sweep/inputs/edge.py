"""The edge to foreign libraries: whatever they raise becomes one message with place and reason."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sae_sweep.errors import BadInput, lacks_room

LONGEST_REASON = 300


@dataclass
class Place:
    """Where a reader stands: the input, and the line or row that is read."""

    name: str
    """As messages begin: `activations.text=a.jsonl`, `import runs.csv`."""
    unit: str = "line"
    number: int | None = None
    """Counted from 1; None before the first."""

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name} {self.unit} {self.number}"


@contextlib.contextmanager
def edge(
    place: Place | str,
    way_out: str,
    verb: str = "cannot be read",
    *,
    kind: type[BadInput] = BadInput,
    explain: Callable[[Exception], str] | None = None,
) -> Iterator[None]:
    """Turn any exception of a foreign library into one message.

    Args:
        place: what is read; a `Place` moves while the block runs.
        way_out: what the user can do.
        verb: what failed.
        kind: what is raised: `CutShort` where the same command goes on later.
        explain: words for an exception; `reason` where None.

    Raises:
        BadInput: in place of every exception but those that have a message already (`BadInput`), a
            full disk, which `cli.main` reports, and what ends the process.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        # a library's errors have no common type: any list of them lacks one
        if lacks_room(error):
            raise
        said = (explain or reason)(error)
        raise kind(f"{place} {verb} ({said}): {way_out}") from error


def reason(error: BaseException) -> str:
    """What an exception says, in one line that a user understands."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = "".join(one if one.isprintable() else " " for one in said)
    if not said or isinstance(error, LookupError | AttributeError | AssertionError):
        # such messages are a bare name: 'hidden_size'
        said = f"{type(error).__name__}: {said}".removesuffix(": ")
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}..."
