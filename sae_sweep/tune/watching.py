"""Who follows a sweep, and who supplies it with trials."""

from typing import Protocol

from sae_sweep.config import Trial
from sae_sweep.records import Outcome, Row


class Watcher(Protocol):
    """Who is told of the course of a sweep."""

    def started(self, trial: Trial, step: int) -> None:
        """A trial was taken up."""

    def reported(self, row: Row) -> None:
        """A trial reported."""

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """A trial ended, here or in another sweep."""


class Supply(Watcher, Protocol):
    """Where trials come from while a sweep runs; is told of the course, so as to decide."""

    @property
    def exhausted(self) -> bool:
        """Whether no more will come."""

    def ask(self, n: int) -> list[Trial]:
        """At most n trials, in the store already; none only while some are under way."""
