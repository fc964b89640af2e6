"""Cells of foreign tables as values: numbers, text, nothing."""

import math
import re
from typing import Any

MISSING = {"", "-", "—", "none", "null", "n/a", "na"}
LARGEST = 10**18
"""Whole numbers up to here stay numbers; longer ones are names that consist of digits."""
WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I)
"""What a cell of text must look like to be a number: float() also takes 1_000 and other digits."""
GROUPED = re.compile("[+-]?[0-9]{1,3}([,.' \N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}_][0-9]{3})+")
"""Digits in groups of three, of which nobody knows whether the separator is a decimal one."""
DURATION = re.compile(r"(?:(\d+) days?,? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)


def is_missing(cell: Any) -> bool:
    """Whether nothing was written; NaN is something: a value that is not finite."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def number(cell: Any) -> float | None:
    """A cell as a number, NaN and infinities included; None where it is none."""
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, str | bytes) and not (
        isinstance(cell, str) and NUMBER.fullmatch(cell.strip())
    ):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf if cell > 0 else -math.inf


def setting(cell: Any) -> Any:
    """A cell as a setting: a whole number, a number, a truth value, text; None where missing.

    NaN is missing too, since pandas writes it so; an infinity is the text that says so.
    """
    if is_missing(cell):
        return None
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell if abs(cell) < LARGEST else str(cell)
    if isinstance(cell, str) and WHOLE.fullmatch(cell.strip()):
        return setting(int(cell)) if len(cell) < 30 else cell.strip()
    value = number(cell)
    if value is None:
        return cell if isinstance(cell, bool) else str(cell)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def is_grouped(cell: Any) -> bool:
    """Whether a cell may be a number with separators of thousands, and may be another one."""
    if not isinstance(cell, str) or not GROUPED.fullmatch(cell.strip()):
        return False
    return not NUMBER.fullmatch(cell.strip())


def seconds(cell: Any) -> float | None:
    """A duration in seconds: a number, or `0 days 00:01:00.123` as pandas prints it."""
    if isinstance(cell, str) and (match := DURATION.fullmatch(cell.strip())):
        days, hours, minutes, rest = match.groups()
        return float(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(rest)
    if hasattr(cell, "total_seconds"):
        return float(cell.total_seconds())
    value = number(cell)
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def half_digit(cell: Any) -> float:
    """Half a unit of the last digit that was written: how far the true value may lie off."""
    text = str(cell).strip().lower()
    mantissa, _, exponent = text.partition("e")
    decimals = len(re.sub(r"[^0-9]", "", mantissa.partition(".")[2]))
    try:
        return float(0.5 * 10.0 ** (int(exponent or 0) - decimals))
    except (ValueError, OverflowError):
        return 0.0
