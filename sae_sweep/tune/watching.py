"""Protocols: observers of a sweep, and suppliers of its trials."""

from typing import Protocol

from sae_sweep.config import Trial
from sae_sweep.records import Outcome, Row


class Watcher(Protocol):
    """An observer of a sweep's events."""

    def started(self, trial: Trial, step: int) -> None:
        """A trial was started."""

    def reported(self, row: Row) -> None:
        """A trial reported."""

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """A trial ended, here or in another sweep."""


class Supply(Watcher, Protocol):
    """A supplier of trials while a sweep runs; it observes events to decide."""

    @property
    def exhausted(self) -> bool:
        """Whether no more will come."""

    def ask(self, n: int) -> list[Trial]:
        """At most n trials, in the store already; none only while some are under way."""
