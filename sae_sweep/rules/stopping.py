"""When to prune a trial, from its reports. Pure: no clock, no store.

A pruner's state is plain JSON, so that a resumed sweep continues with it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sae_sweep.rules.stop_rules import Halving, Plateau, Subject, Warning


class Budget(NamedTuple):
    """Total budget of a sweep; None where there is no bound."""

    trials: int | None = None
    """Trials that are started."""
    tokens: int | None = None
    """Tokens trained on, of all trials together."""
    seconds: float | None = None
    """Wall time of training, all starts of the sweep counted."""


class Policy(NamedTuple):
    """All rules of a sweep."""

    warnings: tuple[Warning, ...] = ()
    plateau: Plateau | None = None
    halving: Halving | None = None
    budget: Budget = Budget()

    @property
    def active(self) -> bool:
        """Whether there is any rule."""
        return self != Policy()

    @property
    def metrics(self) -> set[str]:
        """Metrics that its rules read."""
        names = {one.metric for warning in self.warnings for one in warning.conditions}
        names |= {rule.metric for rule in (self.plateau, self.halving) if rule is not None}
        return names | ({"l0"} if self.halving is not None and self.halving.l0_band else set())


class Pruned(NamedTuple):
    """When and why a trial is stopped."""

    step: int
    """Reports of later steps do not count."""
    reason: str


class Pruner:
    """Applies a policy to incoming reports; a repeated report changes nothing."""

    def __init__(self, policy: Policy, state: dict[str, Any] | None = None) -> None:
        self._policy = policy
        state = state or {}
        self._pruned = {uid: Pruned(*one) for uid, one in state.get("verdicts", {}).items()}
        self._warned: dict[str, list[int]] = state.get("warned", {})
        """Warnings that a trial has passed, by their place in the policy."""
        self._windows: dict[str, list[list[float]]] = state.get("windows", {})
        """Steps and values of the plateau windows of training trials."""
        self._rungs: dict[str, dict[str, float]] = state.get("rungs", {})
        """Values of trials by rung and group."""
        self._climbed: dict[str, int] = state.get("climbed", {})
        """How many rungs a trial has passed."""
        self._course: dict[str, list[int]] = state.get("course", {})
        """First and last step here, and tokens per step, of every started trial."""
        self._tokens = sum((last - first) * each for first, last, each in self._course.values())
        self.seconds: float = state.get("seconds", 0.0)
        """Wall time spent; the caller adds to it."""

    @property
    def state(self) -> dict[str, Any]:
        """The state from which a pruner resumes, as plain JSON."""
        return {
            "verdicts": {uid: list(one) for uid, one in self._pruned.items()},
            "warned": self._warned,
            "windows": self._windows,
            "rungs": self._rungs,
            "climbed": self._climbed,
            "course": self._course,
            "seconds": self.seconds,
        }

    @property
    def pruned(self) -> Mapping[str, Pruned]:
        """Trials stopped so far, by uid."""
        return self._pruned

    def begin(self, uid: str) -> None:
        """A trial is handed to a slot."""
        self._course.setdefault(uid, [0, 0, 0])

    def start(self, subject: Subject, step: int) -> None:
        """A trial trains from a step on; earlier training does not count against the budget."""
        if self._course.get(subject.uid, [0, 0, 0])[2] == 0:
            self._course[subject.uid] = [step, step, subject.batch_size]

    def step(self, uid: str) -> int:
        """The last step that is known of a trial."""
        return self._course.get(uid, [0, 0, 0])[1]

    def forget(self, uid: str) -> None:
        """A trial restarts from step 0: its earlier reports are dropped, its cost is kept."""
        self._pruned.pop(uid, None)
        self._warned.pop(uid, None)
        self._windows.pop(uid, None)
        self._climbed.pop(uid, None)
        for reached in self._rungs.values():
            reached.pop(uid, None)
        if uid in self._course:
            first, last, tokens = self._course[uid]
            self._course[uid] = [first - last, 0, tokens]

    def observe(self, subject: Subject, step: int, values: Mapping[str, float]) -> Pruned | None:
        """Apply the rules to a trial's report, unless it is the last one."""
        uid = subject.uid
        self.start(subject, 0)
        if step > self.step(uid):
            self._tokens += (step - self.step(uid)) * subject.batch_size
            self._course[uid][1] = step
        if uid in self._pruned or step >= subject.steps:
            self._windows.pop(uid, None)
            return None
        rules = (self._warning, self._plateau, self._halving)
        reasons = [rule(subject, step, values) for rule in rules]  # each notes what it has seen
        reason = next((one for one in reasons if one is not None), self.used_up())
        if reason is None:
            return None
        return self.prune(uid, step, reason)

    def _warning(self, subject: Subject, step: int, values: Mapping[str, float]) -> str | None:
        passed = self._warned.get(subject.uid, [])
        for place, warning in enumerate(self._policy.warnings):
            if place not in passed and step >= warning.at.of(subject):
                passed = self._warned.setdefault(subject.uid, [])
                passed.append(place)
                if (reason := warning.reason(values)) is not None:
                    return reason
        return None

    def _plateau(self, subject: Subject, step: int, values: Mapping[str, float]) -> str | None:
        rule = self._policy.plateau
        if rule is None or rule.metric not in values:
            return None
        seen = self._windows.setdefault(subject.uid, [])
        first = step - rule.window_steps
        # a trial that goes on from a checkpoint repeats reports
        seen[:] = [one for one in seen if first < one[0] < step]
        seen.append([step, values[rule.metric]])
        return rule.reason(subject, step, [value for _, value in seen])

    def _halving(self, subject: Subject, step: int, values: Mapping[str, float]) -> str | None:
        rule = self._policy.halving
        if rule is None or rule.metric not in values:
            return None
        place = self._climbed.get(subject.uid, 0)
        if step < rule.rung(subject, place):
            return None
        while step >= rule.rung(subject, place + 1):
            place += 1
        self._climbed[subject.uid] = place + 1
        key = f"{rule.rung(subject, place)} {rule.group(subject, values)}"
        reached = self._rungs.setdefault(key, {})
        reached[subject.uid] = values[rule.metric]
        return rule.reason(values[rule.metric], list(reached.values()), key)

    def prune(self, uid: str, step: int, reason: str) -> Pruned:
        """Record that a trial is stopped after a step, and why."""
        self._pruned[uid] = Pruned(step, reason)
        return self._pruned[uid]

    def used_up(self) -> str | None:
        """The reason that the budget is used up; None where it is not."""
        budget = self._policy.budget
        if budget.tokens is not None and self._tokens >= budget.tokens:
            return f"budget: {budget.tokens:,} tokens are used up"
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"budget: {budget.seconds:,.0f} seconds are used up"
        return None

    def refusal(self, uid: str | None = None) -> str | None:
        """The reason that a trial, or any new trial, may not train; None where it may."""
        if uid in self._pruned:
            return self._pruned[uid].reason
        trials = self._policy.budget.trials
        if trials is not None and uid not in self._course and len(self._course) >= trials:
            return f"budget: {trials:,} trials have begun"
        return self.used_up()
