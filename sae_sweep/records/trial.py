"""The record of a trial, shared by store, report and search."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Status = Literal["queued", "running", "done", "stopped", "diverged", "oom", "failed", "interrupted"]
"""done: evaluated; stopped: by a policy; diverged: non-finite loss or parameters; oom: out of
memory; failed: raised, or its process died; interrupted: its driver left before it ended."""

STATUSES: tuple[Status, ...] = get_args(Status)

FINAL: frozenset[Status] = frozenset({"done", "diverged", "oom", "failed"})
"""Statuses that a rerun leaves as they are, unless asked with `rerun=`. `stopped` is not one:
it is final only for a sweep with the policy that stopped it."""

LEFT_OUT: dict[str, bool | float | str] = {
    "sae.always_on_coeff": 0.0,
    "sae.decoder_bias": True,
    "sae.diversity_coeff": 0.0,
    "sae.encoder_l2_coeff": 0.0,
    "sae.l1_coeff": 0.0,
    "sae.select": "largest",
    "sae.skip": False,
    "sae.transcoder": False,
    "train.kernels": "auto",
    "train.l0_controller": False,
    "train.latents": "auto",
}
"""Settings that a trial's record leaves out at these values, which are their defaults. At any other
value a setting that the record lacks has no effect on the trial."""


class Row(NamedTuple):
    """Metrics of one trial at one step."""

    uid: str
    step: int
    values: dict[str, float]
    """By metric name; non-finite values are kept and flagged by the store."""


class Outcome(NamedTuple):
    """How a trial ended."""

    uid: str
    status: Status
    step: int
    """Steps trained."""
    final: dict[str, float]
    """Metrics of the final evaluation; empty unless done."""
    error: str | None = None
    """Why, for every status but done."""
    seconds: float = 0.0
    """Wall time spent training and evaluating this trial, over all its starts."""
    always_on_ids: tuple[int, ...] = ()
    """The latents counted by `always_on`."""


class Place(NamedTuple):
    """Machine and versions that a trial runs with: recorded, not part of its uid."""

    host: str
    device: str
    threads: int
    git: str | None
    versions: dict[str, str]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the store keeps it.

    Example:
        >>> done = TrialRecord("68b9aef25c85", "k8", "done", {"sae": {"k": 8}}, {"fvu": 0.25})
        >>> done.folder
        'k8-68b9aef25c85'
        >>> done.worse_than_mean
        False
    """

    uid: str
    label: str
    """Readable settings, e.g. exp4_k32_lr3e-04_aux3e-02; the folder is trials/<label>-<uid>."""
    status: Status
    config: dict[str, Any]
    """Resolved settings: {"activations": ..., "sae": ..., "train": ...}."""
    final: dict[str, float | None] = field(default_factory=dict)
    """Final metrics; None where the value was not finite."""
    error: str | None = None
    started: float | None = None
    """Seconds since the epoch."""
    finished: float | None = None
    seconds: float | None = None
    host: str | None = None
    device: str | None = None
    threads: int | None = None
    git: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    always_on_ids: tuple[int, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the trial's folder below outputs/trials/."""
        return f"{self.label}-{self.uid}"

    @property
    def outcome(self) -> Outcome:
        """How it ended; NaN where a final metric was not finite."""
        final = {name: math.nan if value is None else value for name, value in self.final.items()}
        return Outcome(self.uid, self.status, 0, final, self.error, self.seconds or 0.0)

    @property
    def worse_than_mean(self) -> bool:
        """Whether a finished trial reconstructs no better than the mean: not ranked."""
        fvu = self.final.get("fvu")
        return self.status == "done" and fvu is not None and fvu >= 1.0
