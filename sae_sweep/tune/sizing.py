"""How many trials a GPU's slot takes at once: found out while it trains."""

from typing import NamedTuple

GAIN = 0.9
"""Twice the trials have to bring the time of a trial's step down to this share, or less."""

MEMORY_SHARE = 0.9
"""Share of a device's memory that trials may take."""


class Observed(NamedTuple):
    """A slot at work."""

    members: int
    seconds: float
    """Of one step of all of them."""
    peak_bytes: int
    """The most memory that was allocated."""


class Sizing:
    """Doubles the trials of a slot while that pays and memory allows.

    Begins with one, which shows what a trial really takes beside what the formula says. Trials that
    join late end with the same bits as any others, so trying costs nothing.
    """

    def __init__(self, estimate: int, memory: int) -> None:
        """Begin.

        Args:
            estimate: bytes that a trial takes, by the formula.
            memory: bytes of the device.
        """
        self.members = 1
        """How many to take at once."""
        self._estimate = estimate
        self._memory = memory
        self._before: Observed | None = None
        self._settled = False

    def observe(self, now: Observed) -> int:
        """Learn from steps of exactly `members` trials; returns how many to take from here on."""
        if self._settled or now.members != self.members:
            return self.members
        before, self._before = self._before, now
        pays = before is None or _a_member(now) <= GAIN * _a_member(before)
        if not pays:
            assert before is not None
            self.members = before.members  # more would be slower for each, and end no sooner
        fits = self._fits(before, now)
        if pays and fits > self.members:
            self.members = min(2 * self.members, fits)
        else:
            self._settled = True
        return self.members

    def _fits(self, before: Observed | None, now: Observed) -> int:
        """How many the memory holds: by the formula at first, by what was measured then."""
        each = self._estimate
        if before is not None and now.peak_bytes > before.peak_bytes:
            each = (now.peak_bytes - before.peak_bytes) // (now.members - before.members)
        free = int(MEMORY_SHARE * self._memory) - now.peak_bytes
        return now.members + max(0, free // max(each, 1))


def _a_member(observed: Observed) -> float:
    return observed.seconds / observed.members
