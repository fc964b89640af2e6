"""What is trained: one settings class an architecture, with all that others have to know of it."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from sae_sweep.config.base import Count, Factor, NonNegative, OpenFraction, Product, Strict
from sae_sweep.records import L0Setting, l0_setting

DEFAULT_EXPANSION = 8.0

Form = Literal["by_hand", "bf16_select", "fused"]
"""Faster forms of a training step. by_hand: gradients without a graph, on a CPU; bf16_select:
bfloat16 proposes the k largest, there; fused: many trials in one program, on a GPU."""

Forms = Mapping[Form, Mapping[str, Collection[Any] | None]]
"""The settings that each form knows, with the values that it knows of them."""

ANY: None = None
"""It knows every value of a setting."""

STARTS = frozenset({"kind", "n_latents", "b_dec_init"})
"""Settings of where training starts: every form goes on from there."""


class Lacking(NamedTuple):
    """A setting that a faster form does not know."""

    name: str
    value: Any
    instead: Any
    """A value that the form does know; None where there is none."""


class FusedStep(NamedTuple):
    """What the fused kernels are told of an architecture."""

    k: int
    """Active latents per token; 0 where every positive one is active."""
    penalty: float
    """Weight of the L1 penalty before its warm-up."""
    aux_coeff: float
    """Weight of AuxK."""


class Architecture(Strict):
    """What all architectures have in common, and what each declares of itself.

    Training, search and planning ask these declarations and never which architecture it is.
    Autograd of the module's `forward` trains every setting; a faster form is used, or accepted,
    only for the settings that `forms` names.
    """

    kind: str
    """Architecture"""

    n_latents: Product | None = None
    """Dictionary size; or give expansion_factor."""

    expansion_factor: Factor | None = None
    """Dictionary size as a multiple of d; 8 where neither is given."""

    b_dec_init: Literal["mean", "geometric_median"] = "mean"
    """Decoder bias at the start: the training mean, or the first batch's geometric median."""

    always_on_coeff: NonNegative = 0.0
    """Weight of a penalty on latents that fire in more than always_on_threshold of the tokens."""

    always_on_threshold: OpenFraction = 0.8
    """Share of a batch's tokens up to which a latent may fire without that penalty."""

    forms: ClassVar[Forms] = {}
    """Settings that each faster form knows, and with which values."""

    resamples: ClassVar[bool] = False
    """Whether train.resample_every restarts its silent latents."""

    initial_scale: ClassVar[float] = 1.0
    """Scale of the first encoder, as a multiple of the one of least error."""

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.n_latents is not None and self.expansion_factor is not None:
            raise ValueError(
                f"sae.n_latents={self.n_latents} and sae.expansion_factor="
                f"{self.expansion_factor:g} both set the width: give one of them"
            )
        return self

    def resolved(self, d: int) -> dict[str, Any]:
        """Values of the settings that follow from others and the width d of the activations."""
        width = self.n_latents or round((self.expansion_factor or DEFAULT_EXPANSION) * d)
        return {"n_latents": max(1, width), "expansion_factor": None}

    @property
    def l0_setting(self) -> L0Setting:
        """The setting that moves L0."""
        found = l0_setting(self.model_dump())
        assert found is not None, f"records.sparsity does not know {self.kind}"
        return found

    @property
    def warms_up(self) -> bool:
        """Whether there is a sparsity term, whose weight rises during the warm-up."""
        return not self.l0_setting.is_count

    @property
    def unit_rows(self) -> bool:
        """Whether decoder rows are kept at unit norm."""
        return True

    @property
    def dead_coeff(self) -> str | None:
        """The setting that weights a loss of dead latents; None where no such loss acts."""
        return None

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        raise NotImplementedError

    @property
    def fused(self) -> FusedStep:
        """What the fused kernels are told; asked only where `lacks("fused")` is None."""
        raise NotImplementedError

    def inactive(self) -> set[str]:
        """Settings that have no effect, beside those that are None."""
        return set() if self.always_on_coeff else {"always_on_coeff", "always_on_threshold"}

    def active(self) -> dict[str, Any]:
        """The settings that act: what a trial's identity and its record are made of."""
        return self.model_dump(exclude=self.inactive(), exclude_none=True)

    def lacks(self, form: Form) -> Lacking | None:
        """The first setting that acts and that a faster form does not know; None: it knows all."""
        known = self.forms.get(form)
        if known is None:
            return Lacking("kind", self.kind, None)
        for name, value in self.active().items():
            allowed = known.get(name, ())
            if name not in STARTS and allowed is not ANY and value not in allowed:
                default = type(self).model_fields[name].default
                return Lacking(name, value, next(iter(allowed), default))
        return None

    def risks(self, d: int) -> list[str]:
        """Settings that are allowed and rarely meant, each with the reason."""
        del d
        return []


class TopKConfig(Architecture):
    """k-sparse autoencoder (Gao et al. 2024, arXiv:2406.04093)."""

    kind: Literal["topk"] = "topk"
    """Architecture"""

    k: Count = 32
    """Active latents per token."""

    aux_kind: Literal["auxk", "usage"] = "auxk"
    """auxk: dead latents reconstruct the residual; usage: rare latents are pulled up."""

    aux_coeff: NonNegative = 0.03125
    """Weight of the auxiliary loss; 0 switches it off."""

    aux_target: OpenFraction | None = None
    """usage: the share of tokens in which a latent is to be selected, e.g. 0.02."""

    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"k": ANY, "aux_kind": ANY, "aux_coeff": ANY, "aux_target": ANY},
            **{"always_on_coeff": ANY, "always_on_threshold": ANY},
        },
        "bf16_select": {
            **{"k": ANY, "aux_kind": ("auxk",), "aux_coeff": ANY},
            **{"always_on_coeff": ANY, "always_on_threshold": ANY},
        },
        "fused": {"k": ANY, "aux_kind": ("auxk",), "aux_coeff": ANY},
    }
    initial_scale = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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

    @property
    def dead_coeff(self) -> str | None:
        """The setting that weights a loss of dead latents; None where no such loss acts."""
        return "aux_coeff" if self.aux_kind == "auxk" and self.aux_coeff > 0 else None

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        if self.aux_coeff == 0:
            return [f"k{self.k}", "noaux"]
        target = [f"tgt{self.aux_target:.0e}"] if self.aux_kind == "usage" else []
        return [f"k{self.k}", f"aux{self.aux_coeff:.0e}", *target]

    @property
    def fused(self) -> FusedStep:
        """What the fused kernels are told."""
        return FusedStep(k=self.k, penalty=0.0, aux_coeff=self.aux_coeff)

    def inactive(self) -> set[str]:
        """Settings that have no effect, beside those that are None."""
        if self.aux_coeff == 0:
            return super().inactive() | {"aux_kind", "aux_target"}
        return super().inactive() | ({"aux_target"} if self.aux_kind == "auxk" else set())

    def risks(self, d: int) -> list[str]:
        """Settings that are allowed and rarely meant, each with the reason."""
        found = []
        assert self.n_latents is not None
        if self.k > d:
            found.append(
                f"sae.k={self.k} is over d={d}: a code denser than its input "
                "need not be sparse to reconstruct it"
            )
        share = self.k / self.n_latents
        if self.aux_coeff > 0 and self.aux_kind == "usage" and (self.aux_target or 0) > share:
            found.append(
                f"sae.aux_target={self.aux_target:g} is above k/n_latents={share:.3g}: "
                "not every latent can be used that often"
            )
        return found


class L1Config(Architecture):
    """ReLU autoencoder with an L1 penalty (Bricken et al. 2023; Conerly et al. 2024)."""

    kind: Literal["l1"] = "l1"
    """Architecture"""

    l1_alpha: NonNegative = 5.0
    """Weight of the sparsity term: batch mean of a sum over latents, inputs at E||x|| = sqrt(d)."""

    l1_norm: Literal["decoder", "unit"] = "decoder"
    """decoder: each activation times its free decoder row's norm; unit: plain, unit-norm rows."""

    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"l1_alpha": ANY, "l1_norm": ANY},
            **{"always_on_coeff": ANY, "always_on_threshold": ANY},
        },
        "fused": {"l1_alpha": ANY, "l1_norm": ANY},
    }
    resamples = True

    @property
    def unit_rows(self) -> bool:
        """Whether decoder rows are kept at unit norm."""
        return self.l1_norm == "unit"

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        return [f"l1a{self.l1_alpha:.1e}"]

    @property
    def fused(self) -> FusedStep:
        """What the fused kernels are told."""
        return FusedStep(k=0, penalty=self.l1_alpha, aux_coeff=0.0)


AnySae = TopKConfig | L1Config
"""Every architecture's settings; what is particular to one stands in its class and its module."""

SaeConfig = Annotated[AnySae, Field(discriminator="kind")]

ARCHITECTURES: dict[str, type[Architecture]] = {
    one.model_fields["kind"].default: one for one in get_args(AnySae)
}
"""The classes by kind."""
