"""Stop settings, as plain values, read as a policy.

The form is that of `stop` in a run's record: what a sweep was asked for, and what a report replays.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sae_sweep.records import METRICS
from sae_sweep.rules.stop_rules import Condition, Halving, Moment, Plateau, Subject, Warning
from sae_sweep.rules.stopping import Budget, Policy

CONDITION = re.compile(
    r"\s*(\w+)\s*([<>])\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(\s*\*\s*target)?\s*", re.I
)

TARGETS = {"l0_fraction": "target", "l0": "target_count"}
"""The setting of the search that is meant by `target` beside a metric."""

SHIPPED = {
    "early_warnings": Policy(
        warnings=(
            Warning(
                Moment(None, 0.1),
                every=False,
                conditions=(Condition("fvu", ">", 2.0), Condition("dead_features", ">", 0.95)),
            ),
        )
    ),
    "plateau": Policy(plateau=Plateau("l0", Moment(None, 0.5), 1000, 0.5, 0.95)),
    "halving": Policy(
        halving=Halving(
            "fvu", smaller_is_better=True, first=Moment(None, 0.1), factor=3.0, l0_band=1.5
        )
    ),
}
"""The rules of conf/stop/ by their file's name."""


class Written(NamedTuple):
    """A condition as it was written."""

    metric: str
    comparison: str
    number: float
    times_target: bool
    """Whether the number counts in targets of the search."""

    def condition(self, targets: Mapping[str, float | None]) -> Condition:
        """The condition with its bound.

        Args:
            targets: the search's target (a share) and target_count, by setting.
        """
        target = targets[TARGETS[self.metric]] if self.times_target else 1.0
        assert target is not None
        return Condition(self.metric, self.comparison, self.number * target)


def parse(written: str) -> Written | None:
    """Read METRIC > NUMBER or METRIC < NUMBER, either times `target`; None for anything else."""
    found = CONDITION.fullmatch(written)
    if found is None:
        return None
    return Written(found[1], found[2], float(found[3]), bool(found[4]))


def build_policy(stop: Mapping[str, Any], targets: Mapping[str, float | None]) -> Policy:
    """The rules that validated settings ask for.

    Args:
        stop: every setting of `stop`, None where one is not set.
        targets: the search's target (a share) and target_count, by setting.
    """
    warnings = tuple(_warning(one, targets) for one in stop["warnings"])
    return Policy(
        warnings, _plateau(stop["plateau"]), _halving(stop["halving"]), Budget(**stop["budget"])
    )


def _warning(given: Mapping[str, Any], targets: Mapping[str, float | None]) -> Warning:
    parsed = [parse(one) for one in given["any"] or given["all"]]
    conditions = tuple(one.condition(targets) for one in parsed if one is not None)
    return Warning(
        Moment(given["at_step"], given["at_share"]), given["all"] is not None, conditions
    )


def _plateau(given: Mapping[str, Any] | None) -> Plateau | None:
    if given is None:
        return None
    after = Moment(given["after_step"], given["after_share"])
    rest = {name: given[name] for name in ("metric", "window_steps", "sd_below", "confidence")}
    return Plateau(after=after, **rest)


def _halving(given: Mapping[str, Any] | None) -> Halving | None:
    if given is None:
        return None
    return Halving(
        given["metric"],
        METRICS[given["metric"]].direction == "down",
        Moment(given["first_step"], given["first_share"]),
        given["factor"],
        given["l0_band"],
        tuple(given["group_by"] or ()),
    )


def subject(policy: Policy, uid: str, config: Mapping[str, Any], report_every: int) -> Subject:
    """The facts of a trial that a policy's rules use.

    Args:
        policy: its halving says by which settings trials are grouped.
        uid: the trial's.
        config: resolved settings, as a trial's record keeps them.
        report_every: steps between its reports.
    """
    keys = policy.halving.group_by if policy.halving is not None else ()
    group = ", ".join(f"{key}={_look_up(config, key)}" for key in keys)
    train = config["train"]
    return Subject(uid, train["steps"], report_every, train["batch_size"], group)


def _look_up(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
