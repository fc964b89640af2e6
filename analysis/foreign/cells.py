"""Cells of foreign tables as values: numbers, text, nothing."""

import math
import re
from typing import Any

MISSING = {"", "-", "—", "none", "null", "n/a", "na"}


def is_missing(cell: Any) -> bool:
    """Whether nothing was written; NaN is something: a value that is not finite."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def number(cell: Any) -> float | None:
    """A cell as a number, NaN and infinities included; None where it is none."""
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def setting(cell: Any) -> Any:
    """A cell as a setting: a whole number, a number, a truth value, text; None where missing."""
    if is_missing(cell):
        return None
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    value = number(cell)
    if value is None:
        return cell if isinstance(cell, bool) else str(cell)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def half_digit(cell: Any) -> float:
    """Half a unit of the last digit that was written: how far the true value may lie off."""
    text = cell.strip().lower() if isinstance(cell, str) else repr(cell)
    mantissa, _, exponent = text.partition("e")
    decimals = len(re.sub(r"[^0-9]", "", mantissa.partition(".")[2]))
    return float(0.5 * 10.0 ** (int(exponent or 0) - decimals))
