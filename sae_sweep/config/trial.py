"""From settings as written to settings as they act: what a trial is, its identity, its risks."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sae_sweep.config.check import validate
from sae_sweep.config.names import in_words
from sae_sweep.config.run import TrialConfig
from sae_sweep.config.sae import ARCHITECTURES, OFTEN, AnySae, Form
from sae_sweep.config.train import TrainConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import digest

RESULT_VERSION = 1
"""Raised only when the same settings would mean another result."""

C = TypeVar("C", bound=AnySae | TrainConfig)
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
    dtype: str = "float32"
    """What shards are stored in."""


@dataclass(frozen=True)
class Trial:
    """One resolved trial: n_latents and steps are set, nothing is automatic any more."""

    uid: str
    label: str
    source: Source
    sae: AnySae
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
    def step_work(self) -> int:
        """Multiplications of one product of the encoder's size: what a step's time goes with."""
        return self.train.batch_size * self.n_latents * self.source.d

    @property
    def work(self) -> int:
        """`step_work` of the whole training."""
        return self.steps * self.step_work

    @property
    def controlled(self) -> bool:
        """Whether the penalty's weight is moved during training, to hold a target L0."""
        return self.train.l0_controller

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
            "sae": self.sae.active(),
            "train": _active_train(self.train, self.sae),
        }


def resolve(config: TrialConfig, source: Source) -> Trial:
    """Settle every automatic setting and give the trial its identity.

    Raises:
        BadInput: for settings that only together, or only with these activations, are wrong.
    """
    sae = _rebuilt(config.sae, "sae.", config.sae.resolved(source.d))
    train = _resolved_train(config.train, source)
    if sae.encoder_scale is None and _sees_often(train, source):
        sae = _rebuilt(sae, "sae.", {"encoder_scale": sae.short_start})
    _refuse_without_target(sae, source)
    _refuse_idle_loss(sae, train)
    _refuse_without_form(sae, train)
    _refuse_active_latents(sae, train)
    _refuse_resampling(sae, train)
    _refuse_controller(sae, train)
    identity = digest(
        {
            "result_version": RESULT_VERSION,
            "activations": source.fingerprint,
            "sae": _identity(sae),
            "train": _active_train(train, sae),
        }
    )
    return Trial(identity, _label(sae, train, source.d), source, sae, train)


def _identity(sae: AnySae) -> dict[str, Any]:
    """The settings that act; of weights to start from the checksum, wherever they lie.

    Raises:
        BadInput: it is not known.
    """
    if sae.init_from is not None and sae.init_sha256 is None:
        raise BadInput(f"sae.init_from={sae.init_from} without sae.init_sha256: give its checksum")
    return {name: value for name, value in sae.active().items() if name != "init_from"}


def _rebuilt(config: C, prefix: str, changes: dict[str, Any]) -> C:
    """Change settings and validate again: model_copy would not."""
    return validate(type(config), {**config.model_dump(), **changes}, prefix)


def _sees_often(train: TrainConfig, source: Source) -> bool:
    """Whether rows are seen so often that a trial remembers its random start."""
    assert train.steps is not None
    return train.steps >= round(OFTEN * source.train_tokens / train.batch_size)


def _resolved_train(train: TrainConfig, source: Source) -> TrainConfig:
    tokens = train.tokens or round((train.epochs or 1.0) * source.train_tokens)
    steps = train.steps or max(1, round(tokens / train.batch_size))
    window = train.dead_window_tokens or min(10_000_000, max(1, steps * train.batch_size // 8))
    resample_after = train.resample_after or train.resample_every
    settled = {
        "steps": steps,
        "epochs": None,
        "tokens": None,
        "dead_window_tokens": window,
        "resample_after": resample_after,
        "precision": _precision(train),
    }
    return _rebuilt(train, "train.", settled)


def _precision(train: TrainConfig) -> str:
    if train.precision != "auto":
        return train.precision
    return "bf16" if train.kernels == "fused" else "fp32"


def _refuse_without_target(sae: AnySae, source: Source) -> None:
    if sae.transcoder and not source.has_target:
        raise BadInput(
            "sae.transcoder=true without a target: name the module whose output is to be "
            "reconstructed, e.g. activations.target_hook=encoder.layer.{layer}.output.dense, or "
            "use activations.files with a tensor `target`"
        )


def _refuse_without_form(sae: AnySae, train: TrainConfig) -> None:
    """Refuse a faster form that was asked for and does not know a setting that acts."""
    asked: list[tuple[Form, str, str]] = []
    if train.kernels == "fused":
        asked.append(("fused", "train.kernels=fused", "train.kernels=auto"))
    if train.precision == "bf16_select":
        asked.append(("bf16_select", "train.precision=bf16_select", "train.precision=fp32"))
    for form, setting, without in asked:
        if (lacking := sae.lacks(form)) is None:
            continue
        name, value, instead = lacking
        if name == "kind":
            kinds = [kind for kind, one in ARCHITECTURES.items() if form in one.forms]
            other = f"sae.kind={' or '.join(kinds)}"
        else:
            other = f"sae.{name}={in_words(instead)}"
        raise BadInput(
            f"{setting} with sae.{name}={in_words(value)}: there is no {form} form of it; "
            f"use {without} or {other}"
        )


def _refuse_active_latents(sae: AnySae, train: TrainConfig) -> None:
    if train.kernels == "fused" and train.latents == "sparse" and sae.fused.bandwidth:
        raise BadInput(
            f"train.latents=sparse with train.kernels=fused and sae.kind={sae.kind}: what moves "
            "thresholds is not in lists of active latents; use train.latents=auto or "
            "train.kernels=auto"
        )


def _refuse_resampling(sae: AnySae, train: TrainConfig) -> None:
    if train.resample_every is not None and sae.transcoder:
        raise BadInput(
            f"train.resample_every={train.resample_every} with sae.transcoder=true: latents are "
            "restarted from rows that are to be reconstructed, and a transcoder reconstructs "
            "others; use train.resample_every=null"
        )
    if train.resample_every is not None and not sae.resamples:
        kinds = [kind for kind, one in ARCHITECTURES.items() if one.resamples]
        raise BadInput(
            f"train.resample_every={train.resample_every} with sae.kind={sae.kind}: its silent "
            f"latents cannot be restarted; use train.resample_every=null or "
            f"sae.kind={' or '.join(kinds)}"
        )


def _refuse_controller(sae: AnySae, train: TrainConfig) -> None:
    if not train.l0_controller:
        return
    name, value = sae.l0_setting
    if sae.l0_setting.is_count:
        assert sae.n_latents is not None
        assert train.l0_target is not None
        raise BadInput(
            f"train.l0_controller=true with sae.kind={sae.kind}: sae.{name} sets L0 itself; use "
            f"train.l0_controller=false and sae.{name}="
            f"{max(1, round(train.l0_target * sae.n_latents))} for train.l0_target="
            f"{train.l0_target:g}; in a sweep of several kinds, move the controller to `when`"
        )
    if value == 0:
        raise BadInput(
            f"sae.{name}=0 with train.l0_controller=true: it multiplies {name}, and 0 stays 0; "
            f"give a value to start from, e.g. {in_words(type(sae).model_fields[name].default)}"
        )


def _refuse_idle_loss(sae: AnySae, train: TrainConfig) -> None:
    assert train.steps is not None
    assert train.dead_window_tokens is not None
    length = train.steps * train.batch_size
    name = sae.dead_coeff
    if name is not None and train.dead_window_tokens >= length:
        raise BadInput(
            f"train.dead_window_tokens={train.dead_window_tokens} is not below the training "
            f"length of {length} tokens, so {name}={getattr(sae, name):g} could never act: "
            f"shorten the window or set sae.{name}=0"
        )


def _active_train(train: TrainConfig, sae: AnySae) -> dict[str, Any]:
    inactive = CADENCES | LENGTHS
    if train.kernels == "auto":
        inactive |= {"kernels"}
    if train.latents == "auto":
        inactive |= {"latents"}
    if not sae.warms_up:
        inactive |= {"l1_warmup_fraction"}
    if not train.l0_controller:
        inactive |= CONTROL
    elif train.l0_target_start is None:
        inactive |= {"l0_target_fraction"}
    return train.model_dump(exclude=inactive, exclude_none=True)


def _label(sae: AnySae, train: TrainConfig, d: int) -> str:
    assert sae.n_latents is not None
    wide, rest = divmod(sae.n_latents, d)
    width = f"exp{wide}" if rest == 0 else f"m{sae.n_latents}"
    sparsity, *others = sae.label
    parts = [width, sparsity, f"lr{train.lr:.0e}", *others]
    if sae.transcoder:
        parts.append("skip" if sae.skip else "trans")
    if sae.init_sha256 is not None:
        parts.append(f"init{sae.init_sha256[:6]}")
    if train.l0_controller:
        parts.append(f"l0t{train.l0_target:.1e}")
    if train.seed_init or train.seed_data:
        parts.append(
            f"s{train.seed_init}"
            if train.seed_init == train.seed_data
            else f"s{train.seed_init}d{train.seed_data}"
        )
    return "_".join(parts)


def risks(trial: Trial) -> list[str]:
    """Settings that are allowed and rarely meant, each with the reason."""
    length = trial.steps * trial.train.batch_size
    found = trial.sae.risks(trial.source.d)
    if trial.train.l0_target is not None and not trial.controlled:
        found.append(
            f"train.l0_target={trial.train.l0_target:g} without train.l0_controller=true, which "
            "needs a sae.kind with a penalty: nothing holds it"
        )
    if trial.source.has_target and not trial.sae.transcoder:
        found.append(
            "the activations bring targets, and sae.transcoder=false reconstructs the rows "
            "themselves: sae.transcoder=true if that is not meant"
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
