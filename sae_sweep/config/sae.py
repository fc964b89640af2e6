"""What is trained: one class an architecture."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sae_sweep.config.base import Count, Factor, NonNegative, OpenFraction, Product, Strict

DEFAULT_EXPANSION = 8.0


class TopKConfig(Strict):
    """k-sparse autoencoder (Gao et al. 2024, arXiv:2406.04093)."""

    kind: Literal["topk"] = "topk"
    """Architecture: topk or l1."""

    n_latents: Product | None = None
    """Dictionary size; or give expansion_factor."""

    expansion_factor: Factor | None = None
    """Dictionary size as a multiple of d; 8 where neither is given."""

    k: Count = 32
    """Active latents a token."""

    aux_kind: Literal["auxk", "usage"] = "auxk"
    """auxk: dead latents reconstruct the residual; usage: rare latents are pulled up."""

    aux_coeff: NonNegative = 0.03125
    """Weight of the auxiliary loss; 0 switches it off."""

    aux_target: OpenFraction | None = None
    """usage: the share of tokens in which a latent is to be selected, e.g. 0.02."""

    always_on_coeff: NonNegative = 0.0
    """Weight of a price on latents that fire in more than always_on_threshold of the tokens."""

    always_on_threshold: OpenFraction = 0.8
    """Share of a batch's tokens up to which a latent may fire unpriced."""

    b_dec_init: Literal["mean", "geometric_median"] = "mean"
    """Decoder bias at the start: the training mean, or the first batch's geometric median."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _one_width(self.n_latents, self.expansion_factor)
        if self.n_latents is not None and self.k > self.n_latents:
            raise ValueError(
                f"sae.k={self.k} exceeds sae.n_latents={self.n_latents}: "
                f"choose k <= {self.n_latents} or a wider dictionary"
            )
        if self.aux_coeff > 0 and self.aux_kind == "usage" and self.aux_target is None:
            raise ValueError(
                "sae.aux_target=null with aux_kind=usage: give a share of tokens, e.g. 0.02"
            )
        return self


class L1Config(Strict):
    """ReLU autoencoder with an L1 penalty (Bricken et al. 2023; Conerly et al. 2024)."""

    kind: Literal["l1"] = "l1"
    """Architecture: topk or l1."""

    n_latents: Product | None = None
    """Dictionary size; or give expansion_factor."""

    expansion_factor: Factor | None = None
    """Dictionary size as a multiple of d; 8 where neither is given."""

    l1_alpha: NonNegative = 5.0
    """Weight of the sparsity term: batch mean of a sum over latents, inputs at E||x|| = sqrt(d)."""

    l1_norm: Literal["decoder", "unit"] = "decoder"
    """decoder: each activation times its free decoder row's norm; unit: plain, unit-norm rows."""

    always_on_coeff: NonNegative = 0.0
    """Weight of a price on latents that fire in more than always_on_threshold of the tokens."""

    always_on_threshold: OpenFraction = 0.8
    """Share of a batch's tokens up to which a latent may fire unpriced."""

    b_dec_init: Literal["mean", "geometric_median"] = "mean"
    """Decoder bias at the start: the training mean, or the first batch's geometric median."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _one_width(self.n_latents, self.expansion_factor)
        return self


SaeConfig = Annotated[TopKConfig | L1Config, Field(discriminator="kind")]


def _one_width(n_latents: int | None, expansion_factor: float | None) -> None:
    if n_latents is not None and expansion_factor is not None:
        raise ValueError(
            f"sae.n_latents={n_latents} and sae.expansion_factor={expansion_factor:g} "
            "both set the width: give one of them"
        )
