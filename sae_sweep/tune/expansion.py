"""From a composed configuration to resolved trials: all of it checked before any of it starts."""

from pathlib import Path
from typing import Any, NamedTuple

from sae_sweep import activations
from sae_sweep.config import (
    ActivationsConfig,
    RunConfig,
    Source,
    Trial,
    TrialConfig,
    resolve,
    validate,
)
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search import Point, expand


class Member(NamedTuple):
    """A trial and the values of the axes that made it."""

    trial: Trial
    assignment: dict[str, Any]


class Expansion(NamedTuple):
    """Every trial of a sweep, once."""

    members: list[Member]
    merged: list[str]
    """Points that ask for a trial that another point asked for already, in words."""
    activations: dict[str, ActivationsConfig]
    """Settings of the activations, by fingerprint."""
    unknown_source: str | None
    """Why the activations' fingerprint, and so every uid, is not known (dry runs only)."""

    @property
    def trials(self) -> list[Trial]:
        """The trials, in the order of the expansion."""
        return [member.trial for member in self.members]


def expand_sweep(settings: dict[str, Any], config: RunConfig, outputs: Path) -> Expansion:
    """Expand, validate and resolve every point.

    Args:
        settings: the composed configuration; its trial groups are the base of every point.
        config: the same, validated.
        outputs: folder that holds what was extracted and hashed before.

    Raises:
        BadInput: for the first point that cannot be trained, naming it.
    """
    sources: dict[str, tuple[ActivationsConfig, Source]] = {}
    members: dict[str, Member] = {}
    merged = []
    unknown = None
    for point in expand(settings, config.sweep, config.search):
        try:
            trial_config = validate(TrialConfig, point.settings)
            wanted = trial_config.activations
            key = canonical(wanted.model_dump())
            if key not in sources:
                source, reason = _describe(wanted, outputs, dry_run=config.dry_run)
                sources[key], unknown = (wanted, source), unknown or reason
            trial = resolve(trial_config, sources[key][1])
        except BadInput as error:
            raise BadInput(f"{error}{_where(point)}") from None
        if trial.uid in members:
            merged.append(f"{_words(point)} is {_words(members[trial.uid])} ({trial.label})")
        else:
            members[trial.uid] = Member(trial, point.assignment)
    by_fingerprint = {source.fingerprint: wanted for wanted, source in sources.values()}
    return Expansion(list(members.values()), merged, by_fingerprint, unknown)


def _describe(
    config: ActivationsConfig, outputs: Path, *, dry_run: bool
) -> tuple[Source, str | None]:
    try:
        return activations.describe(config, outputs), None
    except BadInput as error:
        if not dry_run or config.d is None:
            raise
        return activations.declare(config), str(error)


def _words(point: Point | Member) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.assignment.items())


def _where(point: Point) -> str:
    return f" (at {_words(point)})" if point.assignment else ""
