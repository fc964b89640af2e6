"""Windows of validation text in batches, with the tokens that a language model is to predict."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sae_sweep.activations import Inputs
from sae_sweep.activations.collect import BATCH_TOKENS

LEAST_FILLED = 0.75
"""Least share of a batch that is not padding, over which a model runs too."""

MASKED_SHARE = 0.15
"""Of a window's text tokens, those that a masked language model is to predict (BERT's own)."""

Text = Literal["plain", "masked"]
"""Windows as they are, or as a masked language model reads them in training."""


class Batch(NamedTuple):
    """Some windows that run together."""

    ids: Int64[Tensor, "windows length"]
    """What the model reads, padded on the right."""
    lengths: Int64[Tensor, " windows"]
    is_text: Bool[Tensor, "windows length"]
    """Tokens whose states an SAE replaces: neither special nor padding; those masked are text."""
    predicted: Bool[Tensor, "windows length"]
    """Places whose prediction counts; all False where the model has no language-model head."""
    truth: Int64[Tensor, "windows length"]
    """The token that each place is to predict."""


def texts(head: str | None) -> tuple[Text, ...]:
    """A masked language model reads twice: its output is of whole texts, its loss of masked."""
    return ("plain", "masked") if head == "masked" else ("plain",)


def batches(inputs: Inputs, text: Text, head: str | None) -> Iterator[Batch]:
    """Cut windows, the longest first, into batches; always the same ones."""
    lengths = [len(window) for window in inputs.ids]
    start = 0
    while start < len(lengths):
        longest, tokens = lengths[start], 0
        stop = start
        for length in lengths[start : start + max(1, BATCH_TOKENS // longest)]:
            tokens += length
            if tokens < LEAST_FILLED * longest * (stop + 1 - start):
                break
            stop += 1
        yield _batch(inputs, slice(start, stop), text, head)
        start = stop


def _batch(inputs: Inputs, chosen: slice, text: Text, head: str | None) -> Batch:
    windows = inputs.ids[chosen]
    lengths = torch.tensor([len(one) for one in windows])
    shape = (len(windows), int(lengths.max()))
    batch = Batch(
        torch.full(shape, inputs.pad_id),
        lengths,
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.int64),
    )
    for row, (window, is_text) in enumerate(zip(windows, inputs.is_text[chosen], strict=True)):
        n = len(window)
        batch.ids[row, :n] = batch.truth[row, :n] = torch.from_numpy(window)
        batch.is_text[row, :n] = torch.from_numpy(is_text)
        if text == "masked":
            assert inputs.mask_id is not None
            hidden = torch.from_numpy(_hidden(window, is_text))
            batch.predicted[row, :n] = hidden
            batch.ids[row, :n][hidden] = inputs.mask_id
        elif head == "causal":
            batch.truth[row, : n - 1] = torch.from_numpy(window[1:])
            batch.predicted[row, : n - 1] = torch.from_numpy(is_text[1:])
    return batch


def _hidden(
    window: Int64[np.ndarray, " length"], is_text: Bool[np.ndarray, " length"]
) -> Bool[np.ndarray, " length"]:
    """The text tokens that are masked: one or more, chosen by the window's own content."""
    places = np.flatnonzero(is_text)
    chooser = np.random.default_rng(np.random.SeedSequence(window.tolist()))
    hidden = np.zeros(len(window), dtype=bool)
    hidden[chooser.permutation(places)[: math.ceil(MASKED_SHARE * len(places))]] = True
    return hidden
