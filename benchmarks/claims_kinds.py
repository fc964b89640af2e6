"""Sweeps of one make whose truth is known, written as files and imported as a user would."""

import csv
import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.edges import edges
from analysis.foreign.sweep import Request, import_sweep
from analysis.page.blocks import Claim
from analysis.study.table import Study, load
from analysis.topics import failures, interactions
from analysis.topics.best import first
from analysis.topics.effects import claims
from analysis.topics.failures import FailuresBySetting, FailuresOfPair
from analysis.topics.interactions import Interacts
from analysis.topics.pareto import on_front
from sae_sweep.records import METRICS

Row = dict[str, Any]
LR, K = (1e-4, 2e-4, 4e-4, 8e-4), (16, 32, 64, 128)
LEVELS: dict[str, tuple[Any, ...]] = {
    "lr": LR,
    "k": (16, 32, 128),
    "aux_coeff": (0, 0.1),
    "batch_size": (1024, 4096),
}


class Kind(NamedTuple):
    """Sweeps of one make."""

    name: str
    make: Callable[[np.random.Generator], list[Row]]
    found: Callable[[Claim], bool] | None = None
    """Whether a claim tells what was planted; None where nothing was."""
    wrong: Callable[[Claim], bool] = lambda _: False
    """Whether a claim contradicts it."""
    settings: frozenset[str] = frozenset()
    """Those that matter: a claim of any other is false."""


def study_of(rows: list[Row]) -> Study:
    """Import rows as a CSV file."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sweep.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        sweep, imported = import_sweep(Request(path, "sweep"))
    return dataclasses.replace(load(sweep), imported=imported)


def said(study: Study) -> list[Claim]:
    """Every claim that a setting matters, in the families of tests."""
    estimates = effect_tests.estimate(study)
    found: list[Claim] = [
        claims.claim_of(one, estimates) for one in estimates.found if one.is_claimed
    ]
    found += [interactions.claim_of(one, estimates) for one in estimates.claimed_pairs]
    lost = failures.sentences(study)
    return found + [one for one in lost if isinstance(one, FailuresBySetting | FailuresOfPair)]


def is_of_others(claim: Claim, settings: frozenset[str]) -> bool:
    """Whether a claim is of a setting that is not among some."""
    if isinstance(claim, Interacts | FailuresOfPair):
        return not {claim.first, claim.second} <= settings
    return getattr(claim, "hyperparameter", "") not in settings


def outside(study: Study) -> list[str]:
    """Statements outside these families that are false where all configurations are equal."""
    found = [f"at the edge of {one.hyperparameter.name}" for one in edges(study)]
    for front in ReportContext(study).fronts:
        stands = on_front(study, front)
        measured = all(one.kind != "cost" for one in front.objectives)
        is_null = measured and "l0" not in stands.objectives
        if is_null and stands.within_noise is not None:
            beaten = stands.n - stands.on_front - stands.within_noise
            found += ["clearly beaten"] * bool(beaten)
    for name in ("fvu", "dead_features"):
        one = first(study, METRICS[name])
        found += ["best"] * (one.tied == 0 and one.n > 1)
    return found


def grid(
    levels: dict[str, tuple[Any, ...]], rng: np.random.Generator, part: float = 1
) -> list[Row]:
    """The grid of some levels, or each of its points with the chance `part`."""
    points = [dict(zip(levels, one, strict=True)) for one in itertools.product(*levels.values())]
    return [one for one in points if part == 1 or rng.random() < part]


def measured(row: Row, log_fvu: float, rng: np.random.Generator) -> Row:
    """A row with fvu exp(log_fvu) times 0.2, and dead_features that nothing moves."""
    dead = max(0.1 + 0.05 * rng.normal(), 0.0)
    return {**row, "fvu": f"{0.2 * np.exp(log_fvu):.6g}", "dead_features": f"{dead:.4f}"}
