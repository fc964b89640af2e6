"""One axis: the values that a setting takes, listed or drawn."""

import math
from typing import Any, NamedTuple

from sae_sweep.config import nearest
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical

LISTED = ("grid", "choice")
BOUNDED = ("uniform", "loguniform", "int")


class Axis(NamedTuple):
    """A setting and what it may be."""

    key: str
    """The dotted setting."""
    word: str
    """grid takes every value; choice, uniform, loguniform and int are drawn."""
    values: list[Any]
    """Of grid and choice the values, of the others the lowest and the highest."""

    @property
    def drawn(self) -> bool:
        """Whether values are drawn, not taken one after the other."""
        return self.word != "grid"

    def draw(self, u: float) -> Any:
        """Turn a number of [0, 1) into a value.

        Real values have six significant digits, so that the last bit of a machine's `exp` and
        `log` cannot give a trial another identity.
        """
        match self.word:
            case "choice":
                return self.values[int(u * len(self.values))]
            case "int":
                low, high = self.values
                return low + int(u * (high - low + 1))
            case "uniform":
                low, high = self.values
                return rounded(low + u * (high - low), self)
            case _:
                low, high = self.values
                return rounded(low * math.exp(u * math.log(high / low)), self)


def rounded(value: float, axis: Axis) -> float:
    """Keep six significant digits of a real value, inside the axis."""
    low, high = axis.values
    return float(min(max(float(f"{value:.6g}"), low), high))


def read_axis(key: str, written: dict[str, Any]) -> Axis:
    """Read one axis as a sweep writes it, e.g. {grid: [16, 32]}.

    Raises:
        BadInput: for anything but one known word with usable values.
    """
    words = [*LISTED, *BOUNDED]
    unknown = [word for word in written if word not in words]
    if unknown:
        raise BadInput(
            f"{key}={written}: no axis is called {unknown[0]}; {nearest(str(unknown[0]), words)} "
            f"(there are {', '.join(words)})"
        )
    if len(written) != 1:
        raise BadInput(f"{key}={written}: an axis has one word of {', '.join(words)}")
    [(word, values)] = written.items()
    axis = Axis(key, word, values)
    if not isinstance(values, list):
        raise BadInput(f"{_shown(axis)}: write a list, e.g. {{{word}: [1, 2]}}")
    if not values:
        raise BadInput(f"{_shown(axis)}: the axis is empty; give it a value or leave it out")
    if word in LISTED:
        _refuse_repeats(axis)
    else:
        _refuse_bounds(axis)
    return axis


def distinct(values: list[Any]) -> list[Any]:
    """Keep the first of equal values, in order; 1 equals 1.0, true does not equal 1.

    Raises:
        ValueError: for NaN, infinities and values that are not plain.
    """
    kept: dict[str, Any] = {}
    for value in values:
        kept.setdefault(canonical(value), value)
    return list(kept.values())


def tied_levels(keys: list[str], values: list[list[Any]]) -> list[dict[str, Any]]:
    """Read tied settings as one assignment a point.

    Raises:
        BadInput: for a point with more or fewer values than keys, and for a key or point twice.
    """
    named = f"sweep.zip with keys {', '.join(keys)}"
    if len(set(keys)) < len(keys):
        raise BadInput(f"{named}: a key stands twice; keep one")
    for row in values:
        if len(row) != len(keys):
            raise BadInput(
                f"{named}: {row} has {len(row)} values for {len(keys)} keys; "
                "give every key one value a point"
            )
    if len(_checked(named, values)) < len(values):
        raise BadInput(f"{named}: a point stands twice in {values}; keep one")
    return [dict(zip(keys, row, strict=True)) for row in values]


def _refuse_repeats(axis: Axis) -> None:
    kept = _checked(_shown(axis), axis.values)
    if len(kept) < len(axis.values):
        raise BadInput(f"{_shown(axis)}: a value stands twice; write {kept}")


def _checked(named: str, values: list[Any]) -> list[Any]:
    try:
        return distinct(values)
    except ValueError:
        raise BadInput(f"{named}: write finite numbers, text, true, false or null") from None


def _refuse_bounds(axis: Axis) -> None:
    kinds = (int,) if axis.word == "int" else (int, float)
    numbers = [
        one
        for one in axis.values
        if isinstance(one, kinds) and not isinstance(one, bool) and math.isfinite(one)
    ]
    if len(axis.values) != 2 or len(numbers) != 2:
        number = "whole" if axis.word == "int" else "finite"
        raise BadInput(f"{_shown(axis)}: give two {number} numbers, the lowest and the highest")
    low, high = numbers
    if low >= high:
        raise BadInput(f"{_shown(axis)}: the bounds do not increase; write the lower one first")
    if axis.word == "loguniform" and low <= 0:
        raise BadInput(
            f"{_shown(axis)}: a logarithm needs bounds above 0; use uniform, or raise {low}"
        )


def _shown(axis: Axis) -> str:
    return f"{axis.key}={{{axis.word}: {axis.values}}}"
