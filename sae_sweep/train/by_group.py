"""Metrics of each group of validation tokens (language, domain)."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


class Groups(NamedTuple):
    """The metrics within each group; NaN for a group without tokens."""

    tokens: Int64[Tensor, " g"]
    frequency: Float64[Tensor, "g m"]
    """Share of the group's tokens in which each latent fires."""
    fvu: Float64[Tensor, " g"]
    """Sum ||x - x_hat||^2 / sum ||x - x_mean||^2 over the group's tokens, x_mean the mean of all
    validation tokens: groups are measured against the same prediction, so that the fvu of the
    whole split is their mean weighted by the denominators."""

    @property
    def l0(self) -> Float64[Tensor, " g"]:
        """Mean count of active latents per token of the group."""
        return self.frequency.sum(dim=1)

    @property
    def dead_features(self) -> Float64[Tensor, " g"]:
        """Share of latents that fire on no token of the group."""
        silent = (self.frequency == 0).double().mean(dim=1)
        return torch.where(self.tokens > 0, silent, torch.nan)


class GroupSums(NamedTuple):
    """Running totals over the tokens of each group, all updated in place."""

    tokens: Int64[Tensor, " g"]
    fired: Int64[Tensor, "g m"]
    error: Float64[Tensor, " g"]
    """Sum of ||x - x_hat||^2."""
    x: Float64[Tensor, "g d"]
    x_square: Float64[Tensor, " g"]


def zeros(n_groups: int, w_dec: Tensor) -> GroupSums:
    """Zero totals, on the device of a decoder [m, d]."""
    m, d = w_dec.shape
    count, exact = torch.int64, torch.float64
    return GroupSums(
        tokens=w_dec.new_zeros(n_groups, dtype=count),
        fired=w_dec.new_zeros(n_groups, m, dtype=count),
        error=w_dec.new_zeros(n_groups, dtype=exact),
        x=w_dec.new_zeros(n_groups, d, dtype=exact),
        x_square=w_dec.new_zeros(n_groups, dtype=exact),
    )


def add(sums: GroupSums, groups: Tensor, x: Tensor, latents: Tensor, x_hat: Tensor) -> None:
    """Add tokens to their groups' totals.

    Args:
        sums: changed in place.
        groups: each token's group [n].
        x: the tokens [n, d].
        latents: their activations [n, m].
        x_hat: their reconstructions [n, d].
    """
    groups, exact = groups.to(sums.tokens), x.double()
    sums.tokens.add_(groups.bincount(minlength=len(sums.tokens)))
    sums.fired.index_add_(0, groups, (latents > 0).long())
    sums.error.index_add_(0, groups, (exact - x_hat.double()).square().sum(dim=1))
    sums.x.index_add_(0, groups, exact)
    sums.x_square.index_add_(0, groups, exact.square().sum(dim=1))


def figures(sums: GroupSums) -> Groups:
    """Metrics from the totals."""
    mean = sums.x.sum(dim=0) / sums.tokens.sum()
    spread = sums.x_square - 2 * sums.x @ mean + sums.tokens * mean.square().sum()
    frequency = sums.fired.double() / sums.tokens[:, None]
    return Groups(sums.tokens, frequency, sums.error / spread)
