"""Names of groups as numbers, and back."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int16

from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import Place, without_surrogates

ONE_GROUP = ["all"]
"""The names where there are no groups."""

NO_GROUP = "(none)"
"""The name of the rows whose group is null."""

MOST_GROUPS = 2**15 - 1
"""Groups that int16 can number."""


def number_groups(
    labels: Iterable[object], config: ActivationsConfig
) -> tuple[Int16[np.ndarray, " labels"], list[str]]:
    """Number each label's group, in the order of the distinct labels, and name the groups.

    Raises:
        BadInput: for more groups than shards can hold.
    """
    names, numbers = np.unique(np.array(list(labels)), return_inverse=True)
    if len(names) > MOST_GROUPS:
        raise too_many_groups(len(names), config)
    return numbers.astype(np.int16), [str(name) for name in names]


def too_many_groups(count: int, config: ActivationsConfig) -> BadInput:
    """The error for more groups than shards can number."""
    return BadInput(
        f"activations.group={config.group} names {count} groups, over {MOST_GROUPS}: "
        "choose a column with fewer values"
    )


class GroupNames:
    """Names the groups of a column; values of two kinds never share a name."""

    def __init__(self, config: ActivationsConfig) -> None:
        """Begin a column."""
        self._group = config.group
        self._kinds: dict[str, type] = {}

    def label(self, value: object, place: Place) -> str:
        """The name of a cell's group; null has one of its own.

        Raises:
            BadInput: with the place, for a list or dict, and for a value that only its kind tells
                from another, as 1 and the text "1".
        """
        if isinstance(value, list | dict | bytes):
            raise BadInput(
                f"activations.group={self._group} of {place} holds {type(value).__name__} "
                f"{str(value)[:40]}: choose a column of names or numbers"
            )
        name = NO_GROUP if value is None else without_surrogates(str(value))
        kind = self._kinds.setdefault(name, type(value))
        if kind is not type(value):
            raise BadInput(
                f"activations.group={self._group} of {place} holds {value!r}, which would be one "
                f"group with a {kind.__name__} of the same name: rename one"
            )
        return name
