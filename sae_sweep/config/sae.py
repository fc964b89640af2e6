"""What is trained: one settings class an architecture, with all that others have to know of it."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from sae_sweep.config.base import (
    Count,
    Factor,
    NonNegative,
    OpenFraction,
    Positive,
    Product,
    Strict,
)
from sae_sweep.records import MOST_PREFIXES, L0Setting, l0_setting

DEFAULT_EXPANSION = 8.0

Form = Literal["by_hand", "bf16_select", "fused"]
"""Faster forms of a training step. by_hand: gradients without a graph, on a CPU; bf16_select:
bfloat16 proposes the k largest, there; fused: many trials in one program, on a GPU."""

Forms = Mapping[Form, Mapping[str, Collection[Any] | None]]
"""The settings that each form knows, with the values that it knows of them."""

ANY: None = None
"""It knows every value of a setting."""

RANDOM_START = frozenset({"b_dec_init", "encoder_scale", "threshold_init"})
"""Settings of a start that is drawn: without effect where weights are given."""

STARTS = RANDOM_START | {"kind", "n_latents", "init_from", "init_sha256"}
"""Settings of where training starts: every form goes on from there."""

GENERAL = dict.fromkeys(("decoder_bias", "encoder_l2_coeff", "diversity_coeff", "transcoder"), ANY)
"""Settings that act alike in every architecture: every form by hand goes with them."""

OFTEN = 4
"""Passes over the rows from which the first encoder is short: what is left of a random start costs
reconstruction of other rows, and few rows do not let training forget it."""

SPARSE = 32
"""Latents per active one up to which it is: with more, a short start leaves latents dead."""

ALWAYS_ON = dict.fromkeys(("always_on_coeff", "always_on_threshold"), ANY)


class Lacking(NamedTuple):
    """A setting that a faster form does not know."""

    name: str
    value: Any
    instead: Any
    """A value that the form does know; None where there is none."""


class FusedStep(NamedTuple):
    """Parameters of an architecture for the fused kernels."""

    k: int = 0
    """Active latents per token; 0 where their count varies."""
    batch_k: int = 0
    """Their mean where the whole batch is selected from; 0 elsewhere."""
    penalty: float = 0.0
    """Weight of the L1 penalty before its warm-up."""
    aux_coeff: float = 0.0
    """Weight of AuxK."""
    usage_coeff: float = 0.0
    """Weight of the usage loss."""
    usage_target: float = 0.0
    """Share of tokens in which that loss wants a latent to be selected."""
    often_coeff: float = 0.0
    """Weight of the penalty on latents that fire too often."""
    often_limit: float = 0.0
    """Share of tokens up to which they may fire unpenalised."""
    bandwidth: float = 0.0
    """Width of the window in which thresholds are moved; 0 where they are not trained."""
    threshold_rate: float = 0.0
    """Learning rate of thresholds, as a multiple of the trial's."""
    pre_act_coeff: float = 0.0
    """Weight of the pre-activation loss."""
    l0_coeff: float = 0.0
    """Weight of the L0 penalty before its warm-up; with a goal over the width d."""
    l0_goal: float = 0.0
    """L0 around which the penalty is quadratic; 0 where it is linear."""

    @property
    def one_form(self) -> bool:
        """Whether steps go by active latents, or by whole rows, for good."""
        return self.k > 0 or self.bandwidth > 0


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

    encoder_scale: Positive | None = None
    """First encoder over that of least error; null: 1, or with k 0.5 or 1 / sqrt(k)."""

    init_from: str | None = None
    """Weights to start from: a trial's folder, an SAE of another library, ORG/NAME of the hub."""

    init_sha256: str | None = None
    """init_from: checksum of the weights, found where null; it is in the uid, and the path not."""

    transcoder: bool = False
    """Whether a row's target is reconstructed in its place; the activations bring it."""

    skip: bool = False
    """transcoder: whether a linear map of the row is added to what the latents reconstruct."""

    decoder_bias: bool = True
    """Whether b_dec is trained; false keeps it at 0, the mean of the normalised activations."""

    encoder_l2_coeff: NonNegative = 0.0
    """Weight of a penalty: mean over latents of their encoder row's squared norm."""

    diversity_coeff: NonNegative = 0.0
    """Weight of a penalty: mean over pairs of decoder rows of their squared cosine."""

    always_on_coeff: NonNegative = 0.0
    """Weight of a penalty on latents that fire in more than always_on_threshold of the tokens."""

    always_on_threshold: OpenFraction = 0.8
    """Share of a batch's tokens up to which a latent may fire without that penalty."""

    forms: ClassVar[Forms] = {}
    """Settings that each faster form knows, and with which values."""

    options: ClassVar[frozenset[str]] = frozenset({*GENERAL, "skip"})
    """Settings that are left out of a trial's identity at their default."""

    resamples: ClassVar[bool] = False
    """Whether train.resample_every restarts its silent latents."""

    default_scale: ClassVar[float] = 1.0
    """What encoder_scale=null is where no row is seen often."""

    @model_validator(mode="after")
    def _general(self) -> Self:
        if self.skip and not self.transcoder:
            raise ValueError(
                "sae.skip=true with sae.transcoder=false: the skip would copy the row that is to "
                "be reconstructed; use sae.transcoder=true or sae.skip=false"
            )
        if self.init_sha256 is not None and self.init_from is None:
            raise ValueError(
                f"sae.init_sha256={self.init_sha256} without sae.init_from: say where the weights "
                "are"
            )
        if not self.decoder_bias and self.b_dec_init != "mean":
            raise ValueError(
                f"sae.b_dec_init={self.b_dec_init} with sae.decoder_bias=false: there is no bias "
                "to start from; use sae.b_dec_init=mean or sae.decoder_bias=true"
            )
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
    def initial_scale(self) -> float:
        """Scale of the first encoder, as a multiple of the one of least error."""
        return self.encoder_scale or self.default_scale

    @property
    def short_start(self) -> float | None:
        """What encoder_scale=null is where rows are seen often: 1 / sqrt(k), unless k is small.

        None: `default_scale`, as where they are not.
        """
        name, k = self.l0_setting
        assert self.n_latents is not None
        if name != "k" or k is None or k * SPARSE < self.n_latents:
            return None
        return float(k**-0.5)

    @property
    def signed(self) -> bool:
        """Whether latents can be negative."""
        return False

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
    def sizes(self) -> list[int]:
        """Sizes of the nested dictionaries that reconstruct, ascending: only the whole one."""
        assert self.n_latents is not None
        return [self.n_latents]

    @property
    def spans(self) -> list[int]:
        """Latents that each of these dictionaries adds to the one before."""
        return [stop - start for start, stop in pairwise([0, *self.sizes])]

    @property
    def fused(self) -> FusedStep:
        """Parameters for the fused kernels; only where `lacks("fused")` is None."""
        raise NotImplementedError

    def inactive(self) -> set[str]:
        """Settings that have no effect, beside those that are None."""
        fields = type(self).model_fields
        found = {name for name in self.options if getattr(self, name) == fields[name].default}
        found |= set() if self.init_from is None else {*RANDOM_START}
        return found | (set() if self.always_on_coeff else {*ALWAYS_ON})

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


class SelectingConfig(Architecture):
    """What architectures that select k latents per token have in common."""

    k: Count = 32
    """Active latents per token; batchtopk, matryoshka: on average over the batch."""

    aux_coeff: NonNegative = 0.03125
    """Weight of the auxiliary loss; 0 switches it off."""

    l1_coeff: NonNegative = 0.0
    """Weight of an L1 penalty beside the selection: batch mean of the sum of activations."""

    options: ClassVar[frozenset[str]] = Architecture.options | {"l1_coeff"}
    default_scale: ClassVar[float] = 0.5

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.n_latents is not None and self.k > self.n_latents:
            raise ValueError(
                f"sae.k={self.k} exceeds sae.n_latents={self.n_latents}: "
                f"choose k <= {self.n_latents} or a wider dictionary"
            )
        return self

    @property
    def warms_up(self) -> bool:
        """Whether there is a sparsity term, whose weight rises during the warm-up."""
        return self.l1_coeff > 0

    @property
    def dead_coeff(self) -> str | None:
        """The setting that weights a loss of dead latents; None where no such loss acts."""
        return "aux_coeff" if self.aux_coeff > 0 else None

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        l1 = [f"l1c{self.l1_coeff:.0e}"] if self.l1_coeff else []
        return [f"k{self.k}", f"aux{self.aux_coeff:.0e}" if self.aux_coeff else "noaux", *l1]

    def risks(self, d: int) -> list[str]:
        """Settings that are allowed and rarely meant, each with the reason."""
        if self.k <= d:
            return []
        return [
            f"sae.k={self.k} is over d={d}: a code denser than its input "
            "need not be sparse to reconstruct it"
        ]


class TopKConfig(SelectingConfig):
    """k-sparse autoencoder (Gao et al. 2024, arXiv:2406.04093)."""

    kind: Literal["topk"] = "topk"
    """Architecture"""

    select: Literal["largest", "magnitude"] = "largest"
    """largest: after relu; magnitude: by absolute value, so that latents can be negative."""

    aux_kind: Literal["auxk", "usage"] = "auxk"
    """auxk: dead latents reconstruct the residual; usage: rare latents are pulled up."""

    aux_target: OpenFraction | None = None
    """usage: the share of tokens in which a latent is to be selected, e.g. 0.02."""

    options: ClassVar[frozenset[str]] = SelectingConfig.options | {"select"}
    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"k": ANY, "aux_kind": ANY, "aux_coeff": ANY, "aux_target": ANY, "l1_coeff": ANY},
            **ALWAYS_ON,
            **GENERAL,
        },
        "bf16_select": {
            **{"k": ANY, "aux_kind": ("auxk",), "aux_coeff": ANY, "l1_coeff": ANY},
            **ALWAYS_ON,
            **GENERAL,
        },
        "fused": {
            **{"k": ANY, "aux_kind": ANY, "aux_coeff": ANY, "aux_target": ANY},
            **ALWAYS_ON,
        },
    }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.aux_coeff > 0 and self.aux_kind == "usage" and self.aux_target is None:
            raise ValueError(
                "sae.aux_target=null with aux_kind=usage: give a share of tokens, e.g. 0.02"
            )
        if self.aux_coeff > 0 and self.aux_kind == "usage" and self.signed:
            raise ValueError(
                "sae.aux_kind=usage with sae.select=magnitude: that loss takes the k largest; "
                "use sae.aux_kind=auxk or sae.select=largest"
            )
        return self

    @property
    def signed(self) -> bool:
        """Whether latents can be negative."""
        return self.select == "magnitude"

    @property
    def dead_coeff(self) -> str | None:
        """The setting that weights a loss of dead latents; None where no such loss acts."""
        return super().dead_coeff if self.aux_kind == "auxk" else None

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        usage = self.aux_coeff > 0 and self.aux_kind == "usage"
        target = [f"tgt{self.aux_target:.0e}"] if usage else []
        return [*super().label, *target, *(["signed"] if self.signed else [])]

    @property
    def fused(self) -> FusedStep:
        """Parameters for the fused kernels."""
        usage = self.aux_kind == "usage"
        return FusedStep(
            k=self.k,
            aux_coeff=0.0 if usage else self.aux_coeff,
            usage_coeff=self.aux_coeff if usage else 0.0,
            usage_target=self.aux_target or 0.0,
            often_coeff=self.always_on_coeff,
            often_limit=self.always_on_threshold,
        )

    def inactive(self) -> set[str]:
        """Settings that have no effect, beside those that are None."""
        if self.aux_coeff == 0:
            return super().inactive() | {"aux_kind", "aux_target"}
        return super().inactive() | ({"aux_target"} if self.aux_kind == "auxk" else set())

    def risks(self, d: int) -> list[str]:
        """Settings that are allowed and rarely meant, each with the reason."""
        found = super().risks(d)
        assert self.n_latents is not None
        share = self.k / self.n_latents
        if self.aux_coeff > 0 and self.aux_kind == "usage" and (self.aux_target or 0) > share:
            found.append(
                f"sae.aux_target={self.aux_target:g} is above k/n_latents={share:.3g}: "
                "not every latent can be used that often"
            )
        return found


def _from_whole_batches(config: SelectingConfig) -> FusedStep:
    return FusedStep(
        batch_k=config.k,
        aux_coeff=config.aux_coeff,
        often_coeff=config.always_on_coeff,
        often_limit=config.always_on_threshold,
    )


class BatchTopKConfig(SelectingConfig):
    """BatchTopK autoencoder (Bussmann et al. 2024, arXiv:2412.06410)."""

    kind: Literal["batchtopk"] = "batchtopk"
    """Architecture"""

    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"k": ANY, "aux_coeff": ANY, "l1_coeff": ANY},
            **ALWAYS_ON,
            **GENERAL,
        },
        "fused": {"k": ANY, "aux_coeff": ANY} | ALWAYS_ON,
    }

    @property
    def fused(self) -> FusedStep:
        """Parameters for the fused kernels."""
        return _from_whole_batches(self)

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        first, *others = super().label
        return [f"batch{first}", *others]


class MatryoshkaConfig(SelectingConfig):
    """Matryoshka autoencoder: BatchTopK, nested (Bussmann et al. 2025, arXiv:2503.17547)."""

    kind: Literal["matryoshka"] = "matryoshka"
    """Architecture"""

    prefixes: str | None = None
    """Sizes of the nested dictionaries, e.g. 128/256/512; null: doubled, from n_latents / 16 on."""

    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"k": ANY, "aux_coeff": ANY, "l1_coeff": ANY, "prefixes": ANY},
            **ALWAYS_ON,
            **GENERAL,
        },
        "fused": {"k": ANY, "aux_coeff": ANY, "prefixes": ANY} | ALWAYS_ON,
    }

    @model_validator(mode="after")
    def _nested(self) -> Self:
        if self.prefixes is None:
            return self
        words = self.prefixes.split("/")
        if not all(word.isdecimal() and len(word) < 16 for word in words):
            raise ValueError(
                f"sae.prefixes={self.prefixes}: write sizes with / between them, e.g. 128/256/512"
            )
        sizes = [int(word) for word in words]
        if sizes[0] < 1 or any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ValueError(
                f"sae.prefixes={self.prefixes}: sizes have to increase, e.g. 128/256/512"
            )
        if self.n_latents is not None and sizes[-1] != self.n_latents:
            raise ValueError(
                f"sae.prefixes={self.prefixes} ends at {sizes[-1]}, sae.n_latents={self.n_latents}:"
                f" the last prefix is the whole dictionary; end with /{self.n_latents}"
            )
        if len(sizes) > MOST_PREFIXES:
            raise ValueError(
                f"sae.prefixes={self.prefixes}: {len(sizes)} prefixes; give at most {MOST_PREFIXES}"
            )
        return self

    @property
    def sizes(self) -> list[int]:
        """The prefixes of resolved settings, ascending; the last is n_latents."""
        assert self.prefixes is not None
        return [int(size) for size in self.prefixes.split("/")]

    @property
    def fused(self) -> FusedStep:
        """Parameters for the fused kernels."""
        return _from_whole_batches(self)

    def resolved(self, d: int) -> dict[str, Any]:
        """Values of the settings that follow from others and the width d of the activations."""
        found = super().resolved(d)
        if self.prefixes is None:
            sizes = {max(1, found["n_latents"] >> halvings) for halvings in range(5)}
            found["prefixes"] = "/".join(map(str, sorted(sizes)))
        return found

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        first, *others = super().label
        return [f"nested{first}", *others, f"p{len(self.sizes)}"]


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
            **ALWAYS_ON,
            **GENERAL,
        },
        "fused": {"l1_alpha": ANY, "l1_norm": ANY} | ALWAYS_ON,
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
        """Parameters for the fused kernels."""
        return FusedStep(
            penalty=self.l1_alpha,
            often_coeff=self.always_on_coeff,
            often_limit=self.always_on_threshold,
        )


class JumpReluConfig(Architecture):
    """JumpReLU autoencoder with an L0 penalty (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

    kind: Literal["jumprelu"] = "jumprelu"
    """Architecture"""

    target_l0: Positive | None = None
    """L0 to train towards, by a quadratic penalty; 32 where neither it nor l0_coeff is given."""

    target_coeff: Positive = 1.0
    """Weight of that penalty: d (l0 / target_l0 - 1)^2, d about the loss of predicting the mean."""

    l0_coeff: NonNegative | None = None
    """Weight of a plain L0 penalty, batch mean of the count of active latents, without a target."""

    pre_act_coeff: NonNegative = 0.01
    """Weight of the pre-activation loss, which lifts dead latents; 0 switches it off."""

    threshold_init: Positive = 1.0
    """Every threshold at the start, inputs at E||x|| = sqrt(d)."""

    bandwidth: Positive = 0.5
    """Width of the window around a threshold in which pre-activations move it."""

    threshold_rate: Positive = 10.0
    """Learning rate of thresholds, as a multiple of train.lr: Adam moves them by steps of it."""

    forms: ClassVar[Forms] = {
        "by_hand": {
            **{"target_l0": ANY, "target_coeff": ANY, "l0_coeff": ANY},
            **{"pre_act_coeff": ANY, "bandwidth": ANY, "threshold_rate": ANY},
            **GENERAL,
        },
        "fused": {
            **{"target_l0": ANY, "target_coeff": ANY, "l0_coeff": ANY},
            **{"pre_act_coeff": ANY, "bandwidth": ANY, "threshold_rate": ANY},
        },
    }

    @model_validator(mode="after")
    def _one_penalty(self) -> Self:
        target, coeff = self.target_l0, self.l0_coeff
        if target is not None and coeff is not None:
            raise ValueError(
                f"sae.target_l0={target:g} and sae.l0_coeff={coeff:g} both set the L0: "
                "give one of them"
            )
        if target is not None and self.n_latents is not None and target >= self.n_latents:
            raise ValueError(
                f"sae.target_l0={target:g} is not below sae.n_latents={self.n_latents}: "
                "choose a count of latents, e.g. 32, or a wider dictionary"
            )
        return self

    def resolved(self, d: int) -> dict[str, Any]:
        """Values of the settings that follow from others and the width d of the activations."""
        target = 32.0 if self.target_l0 is None and self.l0_coeff is None else self.target_l0
        return {**super().resolved(d), "target_l0": target}

    @property
    def warms_up(self) -> bool:
        """Whether there is a sparsity term, whose weight rises during the warm-up."""
        return True

    @property
    def dead_coeff(self) -> str | None:
        """The setting that weights a loss of dead latents; None where no such loss acts."""
        return "pre_act_coeff" if self.pre_act_coeff > 0 else None

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        if self.target_l0 is not None:
            return [f"jumpt{self.target_l0:g}"]
        return [f"jump{self.l0_coeff:.1e}"]

    @property
    def fused(self) -> FusedStep:
        """Parameters for the fused kernels."""
        weight = self.target_coeff if self.l0_coeff is None else self.l0_coeff
        return FusedStep(
            bandwidth=self.bandwidth,
            threshold_rate=self.threshold_rate,
            pre_act_coeff=self.pre_act_coeff,
            l0_coeff=weight,
            l0_goal=self.target_l0 or 0.0,
        )

    def inactive(self) -> set[str]:
        """Settings that have no effect, beside those that are None."""
        return super().inactive() | ({"target_coeff"} if self.target_l0 is None else set())


class GatedConfig(Architecture):
    """Gated autoencoder (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

    kind: Literal["gated"] = "gated"
    """Architecture"""

    l1_alpha: NonNegative = 1.0
    """Weight of the sparsity term: batch mean of the sum of the gate's positive pre-activations."""

    @property
    def label(self) -> list[str]:
        """Parts of a trial's label: the L0 setting, then what else should be seen."""
        return [f"gated{self.l1_alpha:.1e}"]


AnySae = TopKConfig | L1Config | BatchTopKConfig | JumpReluConfig | MatryoshkaConfig | GatedConfig
"""Every architecture's settings; what is particular to one stands in its class and its module."""

SaeConfig = Annotated[AnySae, Field(discriminator="kind")]

ARCHITECTURES: dict[str, type[Architecture]] = {
    one.model_fields["kind"].default: one for one in get_args(AnySae)
}
"""The classes by kind."""
