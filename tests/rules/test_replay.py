"""Rules replayed on finished trials: the pruner's own decisions, without the idle reports."""

import numpy as np
import pytest

from sae_sweep.rules.replay import Course, replay
from sae_sweep.rules.stop_rules import Condition, Halving, Moment, Plateau, Subject, Warning
from sae_sweep.rules.stopping import Policy, Pruned, Pruner

WARNING = Policy(
    warnings=(
        Warning(Moment(None, 0.13), False, (Condition("fvu", ">", 0.9),)),
        Warning(Moment(50, None), True, (Condition("l0", "<", 20.0), Condition("fvu", ">", 0.5))),
    )
)
PLATEAU = Policy(plateau=Plateau("l0", Moment(None, 0.4), 45, 2.0, 0.9))
HALVING = Policy(halving=Halving("fvu", True, Moment(None, 0.1), 2.0, 1.5))
ALL = Policy(WARNING.warnings, PLATEAU.plateau, HALVING.halving)


def courses(seed: int, n: int = 40) -> list[Course]:
    """Trials of two lengths whose L0 settles sooner or later, or never."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        length = 200 if i % 3 else 120
        steps = np.arange(10, length + 1, 10)
        noise = random.uniform(0.1, 4.0) * random.normal(size=len(steps))
        l0 = random.uniform(5, 60) * (1 + np.exp(-steps / 40)) + noise
        fvu = random.uniform(0.2, 1.0) * (1 + 10 / steps) + 0.02 * random.normal(size=len(steps))
        found.append(Course(Subject(f"t{i}", length, 10, 8), steps, {"fvu": fvu, "l0": l0}))
    return found


def every_report(policy: Policy, trained: list[Course]) -> dict[str, Pruned]:
    """The pruner, shown all there is in the same order."""
    pruner, found = Pruner(policy), {}
    reports = [
        (step / one.subject.steps, place, i)
        for place, one in enumerate(trained)
        for i, step in enumerate(one.steps)
    ]
    for _, place, i in sorted(reports):
        subject, steps, values = trained[place]
        if subject.uid not in found:
            seen = {name: float(of[i]) for name, of in values.items()}
            if (pruned := pruner.observe(subject, int(steps[i]), seen)) is not None:
                found[subject.uid] = pruned
    return found


@pytest.mark.parametrize("policy", [WARNING, PLATEAU, HALVING, ALL])
@pytest.mark.parametrize("seed", range(3))
def test_idle_reports_are_left_out_without_any_change(policy, seed) -> None:
    trained = courses(seed)
    expected = every_report(policy, trained)
    assert 0 < len(expected) < len(trained)
    assert replay(policy, trained) == expected


def test_a_course_with_a_gap_is_replayed_report_by_report() -> None:
    gaps = []
    for subject, steps, values in courses(0):
        fewer = {name: np.delete(of, 7) for name, of in values.items()}
        gaps.append(Course(subject, np.delete(steps, 7), fewer))
    assert replay(PLATEAU, gaps) == every_report(PLATEAU, gaps) != {}


def test_a_metric_that_was_never_reported_ends_nothing() -> None:
    without = [Course(one.subject, one.steps, {}) for one in courses(0)]
    assert replay(ALL, without) == {}
