"""The split into training and validation rows."""

import numpy as np
import torch
from jaxtyping import Int64

from sae_sweep.activations.order import permute
from sae_sweep.activations.reader import Split
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

BLOCK_ROWS = 256
"""Neighbouring rows that stay together where no documents are known."""

AT_ONCE = 2**20
"""Documents whose places are computed at once: a few hundred bytes each."""


def shuffled(n: int) -> Int64[np.ndarray, " n"]:
    """The order in which documents are taken: the same for the same number of them."""
    parts = torch.split(torch.arange(n), AT_ONCE)
    return torch.cat([permute(part, n, 0, torch.zeros_like(part)) for part in parts]).numpy()


def split_rows(
    documents: Int64[np.ndarray, " rows"] | None, n: int, config: ActivationsConfig
) -> dict[Split, Int64[np.ndarray, " _"]]:
    """Choose rows of either split among `n`, by document.

    Documents are shuffled; validation takes whole ones until it has enough, and what it does not
    need of the last one is left out; training takes the next ones. Without documents, blocks of
    neighbouring rows are shuffled instead, and both splits may share one block.

    Raises:
        BadInput: when there are too few rows.
    """
    labels = np.arange(n) // BLOCK_ROWS if documents is None else documents
    _, label_numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    taken = shuffled(len(sizes))
    place = np.empty_like(taken)
    place[taken] = np.arange(len(taken))
    rows = np.argsort(place[label_numbers], kind="stable")
    first_train = config.validation_tokens
    if documents is not None:
        ends = sizes[taken].cumsum()
        first_train = int(ends[np.searchsorted(ends, first_train).clip(max=len(ends) - 1)])
    require_rows(config, len(rows[: config.validation_tokens]), len(rows[first_train:]))
    return {
        "validation": rows[: config.validation_tokens],
        "train": rows[first_train : first_train + config.train_tokens],
    }


def require_rows(
    config: ActivationsConfig, validation: int, train: int, documents: int | None = None
) -> None:
    """Check that the rows fill both splits.

    Raises:
        BadInput: with what is needed and what there is.
    """
    if validation < config.validation_tokens or train < config.train_tokens:
        one = (
            f"; {config.text} is one document (blank lines separate them): "
            "activations.text_split_by=line makes one of every line"
        )
        raise BadInput(
            f"activations.train_tokens={config.train_tokens} and "
            f"activations.validation_tokens={config.validation_tokens}: the source gives "
            f"{train} and {validation} rows from separate documents: lower them or add data"
            f"{one if documents == 1 else ''}"
        )
