"""From a composed configuration to resolved trials, all checked before any starts."""

import itertools
from functools import partial
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
from sae_sweep.errors import BadInput, NoStore
from sae_sweep.inputs import heard
from sae_sweep.records import TrialRecord, canonical
from sae_sweep.records.store import Reader, default_url
from sae_sweep.sae.start import Start, found_at
from sae_sweep.search import Point, Search, SearchContext, build_search, examples
from sae_sweep.tune.stopping import refuse_idle_rules


class Member(NamedTuple):
    """A trial and the values of the axes that made it."""

    trial: Trial
    assignment: dict[str, Any]


class Resolver:
    """Turns points into trials, and remembers the activations that it has described."""

    def __init__(self, config: RunConfig, outputs: Path) -> None:
        self._dry_run = config.dry_run
        self._outputs = outputs
        self._sources: dict[str, tuple[ActivationsConfig, Source]] = {}
        self.unknown_source: str | None = None
        """Why the activations' fingerprint, and so every uid, is not known (dry runs only)."""
        self._starts: dict[str, Start] = {}
        self.notes: list[str] = []
        """Notes on what was guessed or left out."""

    @property
    def activations(self) -> dict[str, ActivationsConfig]:
        """Settings of the activations, by fingerprint."""
        return {source.fingerprint: wanted for wanted, source in self._sources.values()}

    def trial(self, point: Point) -> Trial:
        """Validate and resolve a point.

        Raises:
            BadInput: it cannot be trained; the message names it.
        """
        try:
            config = self._with_start(validate(TrialConfig, point.settings))
            wanted = config.activations
            key = canonical(wanted.model_dump())
            if key not in self._sources:
                with heard() as notes:
                    source, reason = _describe(wanted, self._outputs, dry_run=self._dry_run)
                self.notes += notes
                self._sources[key] = wanted, source
                self.unknown_source = self.unknown_source or reason
            trial = resolve(config, self._sources[key][1])
            if trial.sae.init_from is not None:
                self._starts[trial.sae.init_from].require(trial)
        except BadInput as error:
            raise BadInput(f"{error}{_where(point)}") from None
        return trial

    def _with_start(self, config: TrialConfig) -> TrialConfig:
        """Find the weights that a trial starts from, and their checksum."""
        if config.sae.init_from is None:
            return config
        name = found_at(config.sae.init_from)
        if name not in self._starts:
            self._starts[name] = Start.read(name)
        settings = config.model_dump()
        given = settings["sae"]["init_sha256"]
        settings["sae"] |= {"init_from": name, "init_sha256": self._starts[name].checked(given)}
        return validate(TrialConfig, settings)


class Expansion(NamedTuple):
    """Every trial of a sweep, once."""

    members: list[Member]
    """In the order in which they were asked for; a search adds to them while it runs."""
    merged: list[str]
    """Messages on points that resolve to the trial of another point."""
    search: Search
    """The search that names further points."""
    resolver: Resolver
    examples: list[Member]
    """Trials at the ends of a search's axes; none where all trials are known."""

    @property
    def trials(self) -> list[Trial]:
        """The trials, in the order of the expansion."""
        return [member.trial for member in self.members]

    @property
    def planned(self) -> list[Trial]:
        """Trials that may be trained, as far as known."""
        left = self.search.planned - len(self.members)
        ends = itertools.cycle(member.trial for member in self.examples)
        return [*self.trials, *itertools.islice(ends, max(0, left))]


def expand_sweep(settings: dict[str, Any], config: RunConfig, outputs: Path) -> Expansion:
    """Expand, validate and resolve every point that is known, of a search the ends of its axes.

    Args:
        settings: the composed configuration; its trial groups are the base of every point.
        config: the same, validated.
        outputs: folder that holds what was extracted and hashed before.

    Raises:
        BadInput: for the first point that cannot be trained, naming it.
    """
    resolver = Resolver(config, outputs)
    around = SearchContext(resolver.trial, partial(_past, config.store.url or default_url(outputs)))
    search = build_search(settings, config.sweep, config.search, around)
    members: dict[str, Member] = {}
    merged = []
    for point in search.ask(search.ready):
        trial = resolver.trial(point)
        if trial.uid in members:
            merged.append(f"{_words(point)} is {_words(members[trial.uid])} ({trial.label})")
        else:
            members[trial.uid] = Member(trial, point.assignment)
    points = [] if members else examples(settings, config.sweep, config.search)
    ends = [Member(resolver.trial(point), point.assignment) for point in points]
    _refuse_count(config.search.target_count, ends)
    expansion = Expansion(list(members.values()), merged, search, resolver, ends)
    refuse_idle_rules(config, expansion.planned)
    return expansion


def _past(url: str) -> list[TrialRecord]:
    try:
        with Reader(url) as reader:
            return reader.all_trials()
    except NoStore:
        return []


def _refuse_count(target_count: float | None, ends: list[Member]) -> None:
    for member in ends:
        if target_count is not None and target_count >= member.trial.n_latents:
            raise BadInput(
                f"search.target_count={target_count:g} is not below "
                f"sae.n_latents={member.trial.n_latents}: choose fewer latents per token, or a "
                "share of them as search.target"
            )


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
