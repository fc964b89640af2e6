"""Which trials end early."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from sae_sweep.config.base import Count, Number, OpenFraction, Positive, Strict
from sae_sweep.config.names import METRIC_NAMES, nearest
from sae_sweep.records import METRICS
from sae_sweep.rules.stop_rules import Condition
from sae_sweep.rules.stop_settings import TARGETS, parse

Reported = Literal[
    "loss",
    "loss_reconstruction",
    "loss_sparsity",
    "loss_aux",
    "fvu",
    "explained_variance",
    "l0",
    "l0_fraction",
    "dead_features",
    "always_on",
]

REPORTED: tuple[Reported, ...] = get_args(Reported)
"""What a trial reports while it trains."""


class WarningConfig(Strict):
    """Ends a trial that looks hopeless at one moment: {at_step: 500, any: ["loss > 100"]}."""

    at_step: Count | None = None
    """The step at whose report, or the next one, it is tested; or give at_share."""

    at_share: OpenFraction | None = None
    """The same as a share of the trial's steps."""

    any_: Annotated[list[str] | None, Field(alias="any", min_length=1)] = None
    """Conditions of which one suffices: ["l0_fraction > 3 * target", "dead_features > 0.9"]."""

    all_: Annotated[list[str] | None, Field(alias="all", min_length=1)] = None
    """Conditions that must all hold."""

    @property
    def written(self) -> list[str]:
        """The conditions."""
        return self.any_ or self.all_ or []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.at_step is None) == (self.at_share is None):
            raise ValueError(
                f"stop.warnings has at_step={self.at_step or 'null'} and "
                f"at_share={self.at_share or 'null'}: give one of them, a step or a share of the "
                "steps"
            )
        if (self.any_ is None) == (self.all_ is None):
            raise ValueError(
                f"stop.warnings has any={self.any_ or 'null'} and all={self.all_ or 'null'}: give "
                'one of them, a list of conditions such as ["dead_features > 0.9"]'
            )
        return self


class PlateauConfig(Strict):
    """Ends a trial whose metric has settled."""

    metric: Reported = "l0"
    """What is to have settled: l0, fvu or another metric that is reported on the way."""

    after_step: Count | None = None
    """The step from which it is looked for; or give after_share."""

    after_share: OpenFraction | None = None
    """The same as a share of the trial's steps."""

    window_steps: Count
    """How far the window reaches back, in steps; it needs three reports at least."""

    sd_below: Positive
    """Bound of the metric's standard deviation over the window, in the metric's unit."""

    confidence: OpenFraction = 0.95
    """With which the standard deviation must lie below the bound."""

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        _require_one("stop.plateau", self, "after_step", "after_share")
        return self


class HalvingConfig(Strict):
    """Ends trials that are not among the best of their group at rungs of growing length."""

    metric: Literal["fvu", "explained_variance", "dead_features", "always_on"] = "fvu"
    """What trials are compared by."""

    first_step: Count | None = None
    """Step of the first rung; or give first_share."""

    first_share: OpenFraction | None = None
    """The same as a share of the trial's steps."""

    factor: Annotated[float, Field(ge=1.5, le=100), Number] = 3.0
    """A rung lets the best 1 / factor go on, and the next lies factor times as far."""

    group_by: Annotated[list[str], Field(min_length=1)] | None = None
    """Settings that must be equal where trials are compared, e.g. [sae.k]; or give l0_band."""

    l0_band: Annotated[float, Field(gt=1, le=100), Number] | None = None
    """Trials are compared whose l0 lies in one band; a band's upper bound over its lower one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_one("stop.halving", self, "first_step", "first_share")
        _require_one("stop.halving", self, "group_by", "l0_band")
        return self


def _require_one(rule: str, config: Strict, one: str, other: str) -> None:
    values = {name: getattr(config, name) for name in (one, other)}
    if list(values.values()).count(None) != 1:
        given = [f"{name}={'null' if value is None else value}" for name, value in values.items()]
        raise ValueError(f"{rule} has {' and '.join(given)}: give one of them")


class BudgetConfig(Strict):
    """What a sweep may spend in all; what is left then ends as stopped."""

    trials: Count | None = None
    """Trials that are begun, over all starts of the sweep."""

    tokens: Count | None = None
    """Tokens trained on, of all trials together; looked at when a trial reports."""

    seconds: Positive | None = None
    """Wall time of training, over all starts of the sweep."""


class StopConfig(Strict):
    """Which trials end early. Without a rule only those that go non-finite: they are diverged."""

    warnings: list[WarningConfig] = Field(default_factory=list)
    """Early warnings: [{at_share: 0.1, any: ["loss > 100", "dead_features > 0.9"]}, ...]."""

    plateau: PlateauConfig | None = None
    """Ends trials whose L0 has settled."""

    halving: HalvingConfig | None = None
    """Ends trials that are not among the best of their group."""

    budget: BudgetConfig = BudgetConfig()
    """What the sweep may spend in all."""


def refuse_impossible(warning: WarningConfig, targets: Mapping[str, float | None]) -> None:
    """Refuse a warning that can never be given.

    Args:
        warning: its conditions are METRIC > NUMBER or METRIC < NUMBER, either times `target`.
        targets: the search's target (a share) and target_count.

    Raises:
        ValueError: one cannot be read, has no such metric or target, or can never hold.
    """
    found = [_possible(one, targets) for one in warning.written]
    for i, low in enumerate(found):
        for j, high in enumerate(found):
            apart = (low.comparison, high.comparison) == (">", "<") and low.bound >= high.bound
            if warning.all_ and low.metric == high.metric and apart:
                raise ValueError(
                    f'stop.warnings: "{warning.written[i]}" and "{warning.written[j]}" never hold '
                    "together: write any in place of all, or two warnings"
                )


def _possible(written: str, targets: Mapping[str, float | None]) -> Condition:
    found = parse(written)
    if found is None:
        raise ValueError(
            f'stop.warnings: "{written}" cannot be read: write a metric, > or <, and a number, '
            'e.g. "dead_features > 0.9" or "l0_fraction > 3 * target"'
        )
    name = found.metric
    if name not in REPORTED:
        hint = f"no such metric; {nearest(name, list(REPORTED), METRIC_NAMES)}"
        if name in METRICS:
            hint = f"{name} is known only at the end; choose of {', '.join(REPORTED)}"
        raise ValueError(f'stop.warnings: "{written}" can never hold: {hint}')
    if found.times_target and name not in TARGETS:
        raise ValueError(
            f'stop.warnings: "{written}": a target is one of L0; compare l0_fraction or l0 with it'
        )
    if found.times_target and targets[TARGETS[name]] is None:
        raise ValueError(
            f'stop.warnings: "{written}" without search.{TARGETS[name]}: set it, or write the '
            "bound as a number"
        )
    condition = found.condition(targets)
    if (limit := _limit(condition)) is not None:
        raise ValueError(f'stop.warnings: "{written}" can never hold: {limit}')
    return condition


def _limit(condition: Condition) -> str | None:
    """What keeps a condition from ever holding; None where nothing does."""
    name, comparison, bound = condition
    if comparison == "<":
        never = name != "explained_variance" and bound <= 0
        return f"{name} is never below 0; raise the bound" if never else None
    never = bound >= 1 and (METRICS[name].unit == "share" or name == "explained_variance")
    return f"{name} is at most 1; lower the bound" if never else None
