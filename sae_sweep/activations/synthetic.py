"""Synthetic activations, whose true dictionary is known."""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from sae_sweep.activations.groups import ONE_GROUP
from sae_sweep.activations.reader import Identity, Rows, Split
from sae_sweep.activations.stacked import Stacked
from sae_sweep.config import ActivationsConfig, SyntheticConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import digest

PIECE_ROWS = 2048
KEPT_ENTRIES = 2**28
"""Entries of the [rows, features] matrix of true features that are cached."""


def identify(config: ActivationsConfig) -> Identity:
    """The identity of synthetic activations: their settings say all.

    Raises:
        BadInput: without activations.d, or with more active features than there are.
    """
    synthetic = _settings(config)
    settings: dict[str, Any] = {
        "synthetic": synthetic.active(),
        "train_tokens": config.train_tokens,
        "validation_tokens": config.validation_tokens,
    }
    if config.max_norm is not None:
        settings["max_norm"] = config.max_norm
    return Identity(_width(config), settings, None)


def dictionary(config: ActivationsConfig) -> Float[Tensor, "features d"]:
    """The ground truth: unit directions that the activations are sums of."""
    synthetic = _settings(config)
    generator = _generator(synthetic, "dictionary")
    directions = torch.randn(synthetic.n_features, _width(config), generator=generator)
    return torch.nn.functional.normalize(directions, dim=1)


class SyntheticReader:
    """Tokens that each sum a few distinct directions, with coefficients in [0.5, 1.5), and noise.

    Every token is a document of its own. By default each has `n_active` directions, drawn without
    replacement. With `zipf` feature i = 1, 2, ... fires by chance, at `frequencies(...)[i - 1]`,
    p_i:

    - a token fires feature i where g_i > Phi^-1(1 - p_i), Phi the normal distribution's;
    - with `correlation` c of rank r the g of a token are normal with unit variance and covariance
      c <u_i, u_j>, u_i random unit vectors of r dimensions (a Gaussian copula): g = sqrt(c) U e +
      sqrt(1 - c) h with e of r and h of n_features independent normal values; without it they are
      independent;
    - with `roots` R and `children` b the features are a forest in the order of their numbers: i > R
      has the parent ceil((i - R) / b). It fires where its parent does and g_i > Phi^-1(1 - p_i /
      p_parent), so that its frequency is p_i still; correlation moves that of children somewhat.

    More features than dimensions are in superposition: directions are random, so the mean squared
    cosine of two is 1 / d. The structure is that of SynthSAEBench (arXiv:2602.14687), whose
    coefficients and law of frequencies are others.
    """

    def __init__(self, config: ActivationsConfig) -> None:
        self.group_names = ONE_GROUP
        self._settings = _settings(config)
        self.features: Float[Tensor, "features d"] = dictionary(config)
        """Unit directions that rows are sums of."""
        self._chance = None if self._settings.zipf is None else _Chance(self._settings)

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop; a piece is seeded by where it begins; there is one source."""
        assert tuple(sources) == (0,)
        for first, n in pieces(start, stop):
            yield [
                Rows(
                    self._tokens(n, _generator(self._settings, split, first)),
                    torch.arange(first, first + n, dtype=torch.int32),
                    torch.zeros(n, dtype=torch.int16),
                )
            ]

    def codes(self, split: Split, first: int, n: int) -> Float[Tensor, "n features"]:
        """True activations of the features in a piece of rows: one that `pieces` gives."""
        return self._codes(n, _generator(self._settings, split, first))

    def _tokens(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        codes = self._codes(n, generator)
        noise = torch.randn(n, self.features.shape[1], generator=generator)
        return codes @ self.features + self._settings.noise * noise

    def _codes(self, n: int, generator: torch.Generator) -> Float[Tensor, "n features"]:
        n_features = len(self.features)
        if self._chance is not None:
            fires = self._chance.fires(n, generator)
            return fires * (0.5 + torch.rand(n, n_features, generator=generator))
        chances = torch.rand(n, n_features, generator=generator)
        active = chances.topk(self._settings.n_active).indices
        strengths = 0.5 + torch.rand(active.shape, generator=generator)
        return torch.zeros(n, n_features).scatter_(1, active, strengths)


def pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """First row and length of what is drawn at a time when rows start to stop are read."""
    for first in range(start, stop, PIECE_ROWS):
        yield first, min(PIECE_ROWS, stop - first)


def frequencies(synthetic: SyntheticConfig) -> Float64[np.ndarray, " features"]:
    """Share of tokens in which each feature fires by chance: min(c / i^zipf, max_frequency).

    c is such that they add up to `n_active`.

    Example:
        >>> found = frequencies(SyntheticConfig(n_features=4, n_active=1, zipf=1))
        >>> [round(float(one), 2) for one in found]
        [0.48, 0.24, 0.16, 0.12]
    """
    assert synthetic.zipf is not None
    law = np.arange(1.0, synthetic.n_features + 1) ** -synthetic.zipf
    most, found = synthetic.max_frequency, law
    for capped in range(synthetic.n_features):
        c = (synthetic.n_active - capped * most) / law[capped:].sum()
        found = np.minimum(c * law, most)
        if c * law[capped] <= most:
            break
    return found


class Truth:
    """The dictionary of a source, and which of its features the validation rows sum.

    Drawn again from the seeds of the rows, in the pieces in which they were drawn.
    """

    def __init__(self, settings: dict[str, Any], d: int, shards: Sequence[int]) -> None:
        """Make the dictionary.

        Args:
            settings: `activations.synthetic`, as the manifest of the rows has it.
            d: width of the rows.
            shards: rows of each validation shard, in order.
        """
        config = ActivationsConfig(synthetic=SyntheticConfig(**settings), d=d)
        reader, ends = SyntheticReader(config), list(itertools.accumulate(shards))
        self.features = reader.features
        drawn = [
            one for rows, end in zip(shards, ends, strict=True) for one in pieces(end - rows, end)
        ]

        @lru_cache(maxsize=max(1, KEPT_ENTRIES // (PIECE_ROWS * len(self.features))))
        def piece(number: int) -> Bool[Tensor, "n features"]:
            return reader.codes("validation", *drawn[number]) > 0

        self._active = Stacked(piece, [n for _, n in drawn])

    def active(self, rows: Int64[Tensor, " n"]) -> Bool[Tensor, "n features"]:
        """Which features some validation rows sum."""
        return self._active.take(rows)


class _Chance:
    """Which features fire by chance, for as many tokens as are asked for."""

    def __init__(self, synthetic: SyntheticConfig) -> None:
        chance = frequencies(synthetic)
        self._levels: list[tuple[slice, Tensor]] = []
        """Children of one generation, and their parents; parents come first."""
        if synthetic.roots is not None:
            parents = np.arange(synthetic.n_features) - synthetic.roots
            parents //= synthetic.children
            chance = np.where(parents < 0, chance, chance / chance[np.maximum(parents, 0)])
            begin = synthetic.roots
            while begin < synthetic.n_features:
                end = min(synthetic.roots + begin * synthetic.children, synthetic.n_features)
                self._levels.append((slice(begin, end), torch.from_numpy(parents[begin:end])))
                begin = end
        # imported here: a tenth of a second, which trials on a model's rows need not spend
        from scipy.special import ndtri

        self._thresholds = torch.from_numpy(ndtri(1 - chance)).float()
        self._factors = None
        if synthetic.correlation is not None:
            generator = _generator(synthetic, "correlation")
            shape = synthetic.n_features, synthetic.correlation_rank
            unit = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=1)
            self._factors = unit * synthetic.correlation**0.5
            self._own = (1 - synthetic.correlation) ** 0.5

    def fires(self, n: int, generator: torch.Generator) -> Bool[Tensor, "n features"]:
        """Draw tokens."""
        g = torch.randn(n, len(self._thresholds), generator=generator)
        if self._factors is not None:
            shared = torch.randn(n, self._factors.shape[1], generator=generator)
            g = g.mul_(self._own).addmm_(shared, self._factors.T)
        fires = g > self._thresholds
        for level, parents in self._levels:
            fires[:, level] &= fires[:, parents]
        return fires


def _settings(config: ActivationsConfig) -> SyntheticConfig:
    assert config.synthetic is not None
    if config.synthetic.n_active > config.synthetic.n_features:
        raise BadInput(
            f"activations.synthetic.n_active={config.synthetic.n_active} exceeds "
            f"activations.synthetic.n_features={config.synthetic.n_features}: lower it"
        )
    return config.synthetic


def _width(config: ActivationsConfig) -> int:
    if config.d is None:
        raise BadInput("activations.d=null with activations=synthetic: give the width, e.g. 64")
    return config.d


def _generator(synthetic: SyntheticConfig, *purpose: object) -> torch.Generator:
    seed = digest([synthetic.seed, *purpose])
    return torch.Generator().manual_seed(int(seed, 16))
