"""Replay of stop rules on trials that were trained to their end."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_sweep.rules.stop_rules import FEWEST_REPORTS, Plateau, Subject, upper_sd
from sae_sweep.rules.stopping import Policy, Pruned, Pruner


class Course(NamedTuple):
    """The reports of a trial."""

    subject: Subject
    steps: Int[np.ndarray, " t"]
    """Ascending."""
    values: Mapping[str, Float[np.ndarray, " t"]]
    """By metric; NaN where it was no number."""


def replay(policy: Policy, courses: Sequence[Course]) -> dict[str, Pruned]:
    """Which of several trials a policy would have stopped, by uid.

    Trials move on together, by share of their training; of several that report at once the earlier
    in the sequence comes first. A trial's reports end where it is stopped.
    """
    pruner = Pruner(policy)
    reports = []
    for place, course in enumerate(courses):
        heard = np.flatnonzero(_matters(policy, course))
        shares = course.steps[heard] / course.subject.steps
        reports += [
            (share, place, i) for share, i in zip(shares.tolist(), heard.tolist(), strict=True)
        ]
    found: dict[str, Pruned] = {}
    for _, place, i in sorted(reports):
        subject, steps, values = courses[place]
        if subject.uid in found:
            continue
        seen = {name: float(of[i]) for name, of in values.items()}
        pruned = pruner.observe(subject, int(steps[i]), seen)
        if pruned is not None:
            found[subject.uid] = pruned
    return found


def _matters(policy: Policy, course: Course) -> Bool[np.ndarray, " t"]:
    """The reports that any rule reads; a long training has many others."""
    subject, steps, _ = course
    matters = np.zeros(len(steps), dtype=bool)
    moments = [warning.at.of(subject) for warning in policy.warnings]
    if policy.halving is not None:
        place = 0
        while (rung := policy.halving.rung(subject, place)) < subject.steps:
            moments.append(rung)
            place += 1
    first = np.searchsorted(steps, moments)
    matters[first[first < len(steps)]] = True
    if policy.plateau is not None and policy.plateau.metric in course.values:
        matters[_settling_from(policy.plateau, course) :] = True
    return matters


def _settling_from(plateau: Plateau, course: Course) -> int:
    """The place of the report from which on a plateau may be seen; that of none where none is."""
    subject, steps, values = course
    n, every = plateau.reports(subject), subject.report_every
    if not np.array_equal(steps, every * np.arange(1, len(steps) + 1)):
        return 0
    if not FEWEST_REPORTS <= n <= len(steps):
        return len(steps)
    windows = np.lib.stride_tricks.sliding_window_view(values[plateau.metric], n)
    sd = upper_sd(windows, plateau.confidence)
    late = steps[n - 1 :] >= plateau.after.of(subject)
    # a little more than the rule asks for: sums in another order differ in the last digit
    settled = np.flatnonzero(late & (sd < plateau.sd_below * (1 + 1e-9)))
    return int(settled[0]) if len(settled) else len(steps)
