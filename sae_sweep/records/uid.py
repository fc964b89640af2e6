"""Identity by content: a trial is the hash of its settings."""

import hashlib
import json
import math
from typing import Any


def canonical(value: Any) -> str:
    """Write JSON that is equal for equal settings: keys sorted, 1.0 as 1, floats by shortest form.

    Args:
        value: nested dicts, lists and tuples of numbers, strings, booleans and None.

    Raises:
        ValueError: for NaN, infinities and anything that JSON does not know.

    Example:
        >>> canonical({"lr": 1e-3, "k": 32.0})
        '{"k":32,"lr":0.001}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            whole = math.isfinite(value) and value.is_integer() and abs(value) < 2**53
            return int(value) if whole else value
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            raise ValueError(f"{value!r} cannot be part of a trial's identity: use plain values")


def digest(settings: Any) -> str:
    """Compute an identity: the first 12 hex digits of SHA-256 over the canonical JSON.

    A trial's uid is the digest of its resolved, active settings.

    Raises:
        ValueError: as `canonical` does.

    Example:
        >>> digest({"sae": {"k": 32}}) == digest({"sae": {"k": 32.0}})
        True
        >>> len(digest({}))
        12
    """
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:12]
