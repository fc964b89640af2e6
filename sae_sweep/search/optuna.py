"""Optuna's samplers behind our ask and tell: the study is rebuilt from the draws at every ask.

A study that is only ever a function of the draws cannot disagree with the store, and a search that
was killed goes on exactly as if it had not been.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sae_sweep.config import SearchConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search.axes import Axis, rounded
from sae_sweep.search.cells import Cell, Space, Values
from sae_sweep.search.objective import Objective, pooled
from sae_sweep.search.sampled import Draw, Proposal

TRIES = 100
"""Draws in a row that are known or excluded, after which a space counts as used up."""

POPULATION = (4, 50)
"""Least and largest population of NSGA-II; a quarter of the budget in between."""


class OptunaProposer:
    """Lets a sampler choose, from a study of the cell's draws."""

    def __init__(self, space: Space, search: SearchConfig, objective: Objective) -> None:
        """Check that the sampler is available.

        Raises:
            BadInput: it needs packages that are not installed, or cannot do what is asked.
        """
        self._space = space
        self._search = search
        self._objective = objective
        if search.sampler == "gp":
            _require_gp()
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def propose(
        self, cell: Cell, draws: Sequence[Draw], accept: Callable[[Values], bool]
    ) -> Proposal:
        """Draw until a configuration is new."""
        study = optuna.create_study(
            directions=self._objective.directions, sampler=self._sampler(cell, len(draws))
        )
        study.add_trials(list(self._trials(draws, cell)))
        for _ in range(TRIES + len(draws)):
            values = self._space.draw(cell, partial(_suggest, study.ask()))
            if accept(values):
                return Proposal(values)
        if any(draw.pending for draw in draws):
            return Proposal()
        return Proposal(closed=f"{_words(cell)}: {TRIES} draws in a row brought nothing new")

    def _sampler(self, cell: Cell, n_draws: int) -> BaseSampler:
        name = f"{self._search.seed}|{canonical(cell.assignment)}"
        if self._search.sampler == "qmc":
            # one sequence for all asks: what was drawn before is passed over
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.QMCSampler(scramble=True, seed=_seed(name))
        seed = _seed(f"{name}|{n_draws}")
        match self._search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "nsga2":
                size = _population(self._search.trials)
                return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)

    def _trials(self, draws: Sequence[Draw], cell: Cell) -> Iterator[FrozenTrial]:
        complete = 0
        for draw in draws:
            state, values, violations = self._outcome(draw)
            system: dict[str, Any] = {}
            if self._search.sampler == "nsga2" and state is TrialState.COMPLETE:
                # Optuna notes the generation when it asks; a study built anew must be told
                generation = complete // _population(self._search.trials)
                system["NSGAIISampler:generation"] = generation
                complete += 1
            axes = self._axes(cell, draw.values)
            course = self._course(draw) if state is TrialState.PRUNED else {}
            yield create_trial(
                state=state,
                values=values,
                params={key: _parameter(axes[key], one) for key, one in draw.values.items()},
                distributions={key: _distribution(axis) for key, axis in axes.items()},
                constraints=violations,
                intermediate_values=course,
                system_attrs=system,
            )

    def _outcome(
        self, draw: Draw
    ) -> tuple[TrialState, list[float] | None, dict[str, float] | None]:
        """State, objective values and violations; a seed that failed fails the configuration."""
        ended = {told.status for told in draw.told}
        if draw.pending:
            return TrialState.RUNNING, None, None
        if not ended <= {"done", "stopped"}:
            return TrialState.FAIL, None, None
        if "stopped" in ended:
            one = len(self._objective.directions) == 1
            return (TrialState.PRUNED if one else TrialState.FAIL), None, None
        wanted = sorted(self._objective.wanted)
        metrics = pooled(wanted, [told.metrics for told in draw.told])
        values = self._objective.values(metrics)
        violations = self._objective.violations(metrics)
        if values is None or len(violations) < len(self._objective.constraints):
            return TrialState.FAIL, None, None
        return TrialState.COMPLETE, values, violations or None

    def _course(self, draw: Draw) -> dict[int, float]:
        """The objective by step, of the first seed that was stopped."""
        course = next(told.course for told in draw.told if told.status == "stopped")
        [name] = self._objective.names
        found = {step: self._objective.values({name: one}) for step, one in course[name].items()}
        return {step: values[0] for step, values in found.items() if values is not None}

    def _axes(self, cell: Cell, values: Values) -> dict[str, Axis]:
        return {axis.key: axis for _, axes in cell.drawn for axis in axes if axis.key in values}


def _require_gp() -> None:
    missing = [name for name in ("torch", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"search.sampler=gp needs {' and '.join(missing)}: install it, or use "
            "search.sampler=tpe"
        )


def _population(trials: int) -> int:
    least, most = POPULATION
    return max(least, min(most, trials // 4))


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _words(cell: Cell) -> str:
    return ", ".join(f"{key}={value}" for key, value in cell.assignment.items()) or "the search"


def _suggest(trial: optuna.Trial, axis: Axis) -> Any:
    match axis.word:
        case "choice":
            texts = [canonical(value) for value in axis.values]
            return axis.values[texts.index(trial.suggest_categorical(axis.key, texts))]
        case "int":
            return trial.suggest_int(axis.key, *axis.values)
        case word:
            low, high = axis.values
            return rounded(trial.suggest_float(axis.key, low, high, log=word == "loguniform"), axis)


def _distribution(axis: Axis) -> BaseDistribution:
    match axis.word:
        case "choice":
            return CategoricalDistribution([canonical(value) for value in axis.values])
        case "int":
            return IntDistribution(*axis.values)
        case word:
            low, high = axis.values
            return FloatDistribution(float(low), float(high), log=word == "loguniform")


def _parameter(axis: Axis, value: Any) -> Any:
    return canonical(value) if axis.word == "choice" else value
