"""How many trials a GPU slot trains at once, tuned while it trains."""

from typing import NamedTuple

from sae_sweep.kernels.fused.memory import Memory

GAIN = 0.9
"""Twice the trials have to bring the time of a trial's step down to this share, or less."""

MEMORY_SHARE = 0.9
"""Share of a device's memory that trials may take."""


TIMED_STEPS, TIMED_SECONDS = 64, 0.2
"""What steps are timed over at least."""


class Observed(NamedTuple):
    """A slot at work."""

    members: int
    seconds: float
    """Of one step of all of them."""
    peak_bytes: int
    """The most memory that was taken from the device."""


class Sizing:
    """Doubles the trials of a slot while that pays and memory allows.

    Begins with one, which shows what a trial really takes beside what the formula says. Trials that
    join late end with the same bits as any others, so trying costs nothing.
    """

    def __init__(self, estimate: Memory, memory: int) -> None:
        """Begin.

        Args:
            estimate: what a trial takes, by the formula.
            memory: bytes of the device.
        """
        self.members = 1
        """How many to take at once."""
        self.settled = False
        """Whether the number is final."""
        self._estimate = estimate
        self._memory = memory
        self._before: Observed | None = None

    def limit(self, members: int) -> int:
        """Note that memory holds at most so many; returns how many to take from now on."""
        self.members, self.settled = members, True
        return self.members

    def observe(self, now: Observed) -> int:
        """Use the timing of steps of `members` trials; returns how many to take from now on."""
        if self.settled or now.members != self.members:
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
            self.settled = True
        return self.members

    def _fits(self, before: Observed | None, now: Observed) -> int:
        """How many the memory holds: by the formula at first, by what was measured then."""
        table, step = self._estimate.table, self._estimate.step
        each = self._estimate.total
        if before is not None and now.peak_bytes > before.peak_bytes:
            each = (now.peak_bytes - before.peak_bytes) // (now.members - before.members)
        free = int(MEMORY_SHARE * self._memory) - now.peak_bytes
        working = (free - self._estimate.joining) // max(each, 1)
        # while the table grows the old one is there too, and the room for steps is not
        growing = (free - now.members * (table - step)) // max(table, 1)
        return now.members + max(0, min(working, growing))


def _a_member(observed: Observed) -> float:
    return observed.seconds / observed.members
