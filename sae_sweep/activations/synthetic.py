"""Activations whose dictionary is known: what a sparse autoencoder ought to find."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_sweep.activations.groups import ONE_GROUP
from sae_sweep.activations.reader import Identity, Rows, Split
from sae_sweep.config import ActivationsConfig, SyntheticConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import digest

PIECE_ROWS = 2048


def identify(config: ActivationsConfig) -> Identity:
    """The identity of synthetic activations: their settings say all.

    Raises:
        BadInput: without activations.d, or with more active features than there are.
    """
    synthetic = _settings(config)
    settings: dict[str, Any] = {
        "synthetic": synthetic.model_dump(),
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

    Every token is a document of its own.
    """

    def __init__(self, config: ActivationsConfig) -> None:
        self.group_names = ONE_GROUP
        self._settings = _settings(config)
        self._dictionary = dictionary(config)

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop; a piece is seeded by where it begins; there is one source."""
        assert tuple(sources) == (0,)
        for first in range(start, stop, PIECE_ROWS):
            n = min(PIECE_ROWS, stop - first)
            yield [
                Rows(
                    self._tokens(n, _generator(self._settings, split, first)),
                    torch.arange(first, first + n, dtype=torch.int32),
                    torch.zeros(n, dtype=torch.int16),
                )
            ]

    def _tokens(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        n_features, d = self._dictionary.shape
        chances = torch.rand(n, n_features, generator=generator)
        active = chances.topk(self._settings.n_active).indices
        strengths = 0.5 + torch.rand(active.shape, generator=generator)
        codes = torch.zeros(n, n_features).scatter_(1, active, strengths)
        noise = torch.randn(n, d, generator=generator)
        return codes @ self._dictionary + self._settings.noise * noise


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
