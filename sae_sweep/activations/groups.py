"""Names of groups as numbers, and back."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int16

from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

ONE_GROUP = ["all"]
"""The names where there are no groups."""

MOST_GROUPS = 2**15 - 1
"""What the shards' int16 can number."""


def number_groups(
    labels: Iterable[object], config: ActivationsConfig
) -> tuple[Int16[np.ndarray, " labels"], list[str]]:
    """Number each label's group, in the order of the distinct labels, and name the groups.

    Raises:
        BadInput: for more groups than shards can hold.
    """
    names, numbers = np.unique(np.array(list(labels)), return_inverse=True)
    if len(names) > MOST_GROUPS:
        raise BadInput(
            f"activations.group={config.group} names {len(names)} groups, over {MOST_GROUPS}: "
            "choose a column with fewer values"
        )
    return numbers.astype(np.int16), [str(name) for name in names]
