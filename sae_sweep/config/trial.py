"""From settings as written to settings as they act: what a trial is, its identity, its risks."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sae_sweep.config.check import validate
from sae_sweep.config.run import TrialConfig
from sae_sweep.config.sae import DEFAULT_EXPANSION, L1Config, TopKConfig
from sae_sweep.config.train import TrainConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import digest

RESULT_VERSION = 1
"""Raised only when the same settings would mean another result."""

C = TypeVar("C", bound=TopKConfig | L1Config | TrainConfig)
CONTROL = {"l0_controller", "l0_target", "l0_target_start", "l0_target_fraction", "l0_bound"}
CADENCES = {"report_every", "checkpoint_every"}
LENGTHS = {"epochs", "tokens"}


class Source(NamedTuple):
    """What is known of the activations before they are read."""

    fingerprint: str
    """Hash of settings and source checksums."""
    d: int
    """Width."""
    train_tokens: int
    """Rows for training."""
    settings: dict[str, Any]
    """The settings that act, for the record."""
    has_target: bool = False
    """Whether every row comes with a second one, which a transcoder reconstructs."""


@dataclass(frozen=True)
class Trial:
    """One resolved trial: n_latents and steps are set, nothing is automatic any more."""

    uid: str
    label: str
    source: Source
    sae: TopKConfig | L1Config
    train: TrainConfig

    @property
    def n_latents(self) -> int:
        """Dictionary size."""
        assert self.sae.n_latents is not None
        return self.sae.n_latents

    @property
    def steps(self) -> int:
        """Length of training."""
        assert self.train.steps is not None
        return self.train.steps

    @property
    def controlled(self) -> bool:
        """Whether l1_alpha is moved during training, to hold a target L0."""
        return _is_controlled(self.sae, self.train)

    @property
    def report_every(self) -> int:
        """Steps between reports."""
        return self.train.report_every or math.ceil(self.steps / 20)

    @property
    def folder(self) -> str:
        """Name of the trial's folder below outputs/trials/."""
        return f"{self.label}-{self.uid}"

    @property
    def record(self) -> dict[str, Any]:
        """The settings that act, for the store."""
        return {
            "activations": {
                "fingerprint": self.source.fingerprint,
                "d": self.source.d,
                **self.source.settings,
            },
            "sae": _active_sae(self.sae),
            "train": _active_train(self.train, self.sae),
        }


def resolve(config: TrialConfig, source: Source) -> Trial:
    """Settle every automatic setting and give the trial its identity.

    Raises:
        BadInput: for settings that only together, or only with these activations, are wrong.
    """
    width = config.sae.n_latents or round(
        (config.sae.expansion_factor or DEFAULT_EXPANSION) * source.d
    )
    sae = _rebuilt(config.sae, n_latents=max(1, width), expansion_factor=None)
    train = _resolved_train(config.train, source)
    _refuse_idle_aux(sae, train)
    _refuse_unfused(sae, train)
    _refuse_bf16_select(sae, train)
    _refuse_controller(sae, train)
    identity = digest(
        {
            "result_version": RESULT_VERSION,
            "activations": source.fingerprint,
            "sae": _active_sae(sae),
            "train": _active_train(train, sae),
        }
    )
    return Trial(identity, _label(sae, train, source.d), source, sae, train)


def _rebuilt(config: C, **changes: object) -> C:
    """Change settings and validate again: model_copy would not."""
    prefix = "train." if isinstance(config, TrainConfig) else "sae."
    return validate(type(config), {**config.model_dump(), **changes}, prefix)


def _resolved_train(train: TrainConfig, source: Source) -> TrainConfig:
    tokens = train.tokens or round((train.epochs or 1.0) * source.train_tokens)
    steps = train.steps or max(1, round(tokens / train.batch_size))
    window = train.dead_window_tokens or min(10_000_000, max(1, steps * train.batch_size // 8))
    resample_after = train.resample_after or train.resample_every
    return _rebuilt(
        train,
        steps=steps,
        epochs=None,
        tokens=None,
        dead_window_tokens=window,
        resample_after=resample_after,
        precision=_precision(train),
    )


def _precision(train: TrainConfig) -> str:
    if train.precision != "auto":
        return train.precision
    return "bf16" if train.kernels == "fused" else "fp32"


def _refuse_unfused(sae: TopKConfig | L1Config, train: TrainConfig) -> None:
    usage = isinstance(sae, TopKConfig) and sae.aux_kind == "usage" and sae.aux_coeff > 0
    if train.kernels == "fused" and usage:
        raise BadInput(
            "sae.aux_kind=usage with train.kernels=fused: there is no fused form of that loss; "
            "use train.kernels=auto or sae.aux_kind=auxk"
        )
    if train.kernels == "fused" and sae.always_on_coeff > 0:
        raise BadInput(
            f"sae.always_on_coeff={sae.always_on_coeff:g} with train.kernels=fused: there is no "
            "fused form of that penalty; use train.kernels=auto or sae.always_on_coeff=0"
        )


def _refuse_bf16_select(sae: TopKConfig | L1Config, train: TrainConfig) -> None:
    if train.precision != "bf16_select":
        return
    if isinstance(sae, L1Config):
        raise BadInput(
            "train.precision=bf16_select with sae.kind=l1: it selects the k largest, which l1 does "
            "not; use train.precision=fp32"
        )
    if sae.aux_kind == "usage" and sae.aux_coeff > 0:
        raise BadInput(
            "train.precision=bf16_select with sae.aux_kind=usage: that loss takes every "
            "pre-activation in fp32; use train.precision=fp32 or sae.aux_kind=auxk"
        )


def _refuse_controller(sae: TopKConfig | L1Config, train: TrainConfig) -> None:
    if not _is_controlled(sae, train):
        return
    if train.kernels == "fused":
        raise BadInput(
            "train.l0_controller=true with train.kernels=fused: fused kernels are told l1_alpha "
            "steps ahead; use train.kernels=auto or train.l0_controller=false"
        )
    if isinstance(sae, L1Config) and sae.l1_alpha == 0:
        raise BadInput(
            "sae.l1_alpha=0 with train.l0_controller=true: it multiplies l1_alpha, and 0 stays 0; "
            "give a value to start from, e.g. 5"
        )


def _is_controlled(sae: TopKConfig | L1Config, train: TrainConfig) -> bool:
    return isinstance(sae, L1Config) and train.l0_controller


def _refuse_idle_aux(sae: TopKConfig | L1Config, train: TrainConfig) -> None:
    assert train.steps is not None
    assert train.dead_window_tokens is not None
    length = train.steps * train.batch_size
    acts = isinstance(sae, TopKConfig) and sae.aux_kind == "auxk" and sae.aux_coeff > 0
    if acts and train.dead_window_tokens >= length:
        raise BadInput(
            f"train.dead_window_tokens={train.dead_window_tokens} is not below the training "
            f"length of {length} tokens, so aux_coeff={sae.aux_coeff:g} could never act: "  # type: ignore[union-attr]
            "shorten the window or set sae.aux_coeff=0"
        )


def _active_sae(sae: TopKConfig | L1Config) -> dict[str, Any]:
    inactive: set[str] = set()
    if isinstance(sae, TopKConfig):
        if sae.aux_coeff == 0:
            inactive = {"aux_kind", "aux_target"}
        elif sae.aux_kind == "auxk":
            inactive = {"aux_target"}
    if sae.always_on_coeff == 0:
        inactive |= {"always_on_coeff", "always_on_threshold"}
    return sae.model_dump(exclude=inactive, exclude_none=True)


def _active_train(train: TrainConfig, sae: TopKConfig | L1Config) -> dict[str, Any]:
    inactive = CADENCES | LENGTHS
    if train.kernels == "auto":
        inactive |= {"kernels"}
    if train.latents == "auto":
        inactive |= {"latents"}
    if isinstance(sae, TopKConfig):
        inactive |= {"l1_warmup_fraction", "resample_every", "resample_after"}
    if not _is_controlled(sae, train):
        inactive |= CONTROL
    elif train.l0_target_start is None:
        inactive |= {"l0_target_fraction"}
    return train.model_dump(exclude=inactive, exclude_none=True)


def _label(sae: TopKConfig | L1Config, train: TrainConfig, d: int) -> str:
    assert sae.n_latents is not None
    wide, rest = divmod(sae.n_latents, d)
    width = f"exp{wide}" if rest == 0 else f"m{sae.n_latents}"
    match sae:
        case TopKConfig(aux_coeff=0):
            parts = [f"k{sae.k}", f"lr{train.lr:.0e}", "noaux"]
        case TopKConfig(aux_kind="usage"):
            target = f"tgt{sae.aux_target:.0e}"
            parts = [f"k{sae.k}", f"lr{train.lr:.0e}", f"aux{sae.aux_coeff:.0e}", target]
        case TopKConfig():
            parts = [f"k{sae.k}", f"lr{train.lr:.0e}", f"aux{sae.aux_coeff:.0e}"]
        case L1Config():
            parts = [f"l1a{sae.l1_alpha:.1e}", f"lr{train.lr:.0e}"]
            if _is_controlled(sae, train):
                parts.append(f"l0t{train.l0_target:.1e}")
    if train.seed_init or train.seed_data:
        parts.append(
            f"s{train.seed_init}"
            if train.seed_init == train.seed_data
            else f"s{train.seed_init}d{train.seed_data}"
        )
    return "_".join([width, *parts])


def risks(trial: Trial) -> list[str]:
    """Settings that are allowed and rarely meant, each with the reason."""
    found = []
    sae, length = trial.sae, trial.steps * trial.train.batch_size
    if isinstance(sae, TopKConfig):
        share = sae.k / trial.n_latents
        if sae.k > trial.source.d:
            found.append(
                f"sae.k={sae.k} is over d={trial.source.d}: a code denser than its input "
                "need not be sparse to reconstruct it"
            )
        if sae.aux_coeff > 0 and sae.aux_kind == "usage" and (sae.aux_target or 0) > share:
            found.append(
                f"sae.aux_target={sae.aux_target:g} is above k/n_latents={share:.3g}: "
                "not every latent can be used that often"
            )
    if trial.train.l0_target is not None and not trial.controlled:
        found.append(
            f"train.l0_target={trial.train.l0_target:g} without train.l0_controller=true and "
            "sae.kind=l1: nothing holds it"
        )
    if length < 100 * trial.n_latents:
        found.append(
            f"{length:,} training tokens for {trial.n_latents:,} latents, under 100 each: "
            "many latents will hardly have been trained"
        )
    window = trial.train.dead_window_tokens or 0
    if window >= length:
        found.append(
            f"train.dead_window_tokens={window:,} is not below the training length of "
            f"{length:,} tokens: dead_train will be 0 whatever happens"
        )
    return found
