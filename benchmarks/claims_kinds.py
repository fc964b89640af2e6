"""Sweeps of the kinds that mislead a report, written as files and imported as a user would.

Each maker draws the rows of one sweep; `Kind` says what is true of it.
"""

import csv
import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.context import ReportContext
from analysis.findings import verdicts
from analysis.findings.edges import edges
from analysis.foreign.sweep import Request, import_sweep
from analysis.page.blocks import Claim
from analysis.study.table import Study, load
from analysis.topics import failures, interactions
from analysis.topics.best import first
from analysis.topics.effects import claims
from analysis.topics.effects.claims import Flat, Goes
from analysis.topics.failures import FailuresBySetting
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
    found: Callable[[Claim], bool] | None
    """Whether a claim tells what was planted; None where nothing was."""
    wrong: Callable[[Claim], bool] = lambda _: False
    """Whether a claim contradicts it."""


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
    judged = verdicts.judge(study)
    found: list[Claim] = [claims.claim_of(one, judged) for one in judged.found if one.is_claimed]
    found += [interactions.claim_of(one, judged) for one in judged.claimed_pairs]
    lost = failures.sentences(study)
    return found + [one for one in lost if isinstance(one, FailuresBySetting)]


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


def _grid(
    levels: dict[str, tuple[Any, ...]], rng: np.random.Generator, part: float = 1
) -> list[Row]:
    points = [dict(zip(levels, one, strict=True)) for one in itertools.product(*levels.values())]
    return [one for one in points if part == 1 or rng.random() < part]


def _measured(row: Row, log_fvu: float, rng: np.random.Generator) -> Row:
    dead = max(0.1 + 0.05 * rng.normal(), 0.0)
    return {**row, "fvu": f"{0.2 * np.exp(log_fvu):.6g}", "dead_features": f"{dead:.4f}"}


def heteroscedastic(rng: np.random.Generator) -> list[Row]:
    """Noise whose sd grows fivefold with k; one seed, or two."""
    seeds = int(rng.integers(1, 3))
    return [
        _measured({**row, "seed": s}, 0.02 * (row["k"] / 16) ** 0.8 * rng.normal(), rng)
        for row in _grid(LEVELS, rng, rng.choice([1.0, 0.7]))
        for s in range(seeds)
    ]


def repeated(rng: np.random.Generator) -> list[Row]:
    """Noise, each row written two or three times."""
    rows = [_measured(row, 0.1 * rng.normal(), rng) for row in _grid(LEVELS, rng, 0.5)]
    return [row for row in rows for _ in range(int(rng.integers(2, 4)))]


def checkpoints(rng: np.random.Generator) -> list[Row]:
    """Noise, four checkpoints of each run, with and without a name of the run."""
    named, rows = bool(rng.integers(2)), []
    for i, row in enumerate(_grid(LEVELS, rng, 0.5)):
        own = 0.1 * rng.normal()
        for j, step in enumerate((10_000, 20_000, 40_000, 80_000)):
            point = {**({"run_id": f"run{i}"} if named else {}), **row, "step": step}
            rows.append(_measured(point, own - 0.1 * j + 0.01 * rng.normal(), rng))
    return rows


def paired(rng: np.random.Generator) -> list[Row]:
    """Noise, and a larger shift that each of three seeds gives to all configurations."""
    shifts = 0.2 * rng.normal(size=3)
    return [
        _measured({**row, "seed": s}, shifts[s] + 0.02 * rng.normal(), rng)
        for row in _grid({key: LEVELS[key] for key in ("lr", "k", "aux_coeff")}, rng)
        for s in range(3)
    ]


def unequal_seeds(rng: np.random.Generator) -> list[Row]:
    """The same, with seeds 1 and 2 for one k only."""
    shifts = 0.2 * rng.normal(size=3)
    return [
        _measured({**row, "seed": s}, shifts[s] + 0.02 * rng.normal(), rng)
        for row in _grid({key: LEVELS[key] for key in ("lr", "k", "aux_coeff")}, rng)
        for s in range(3 if row["k"] == 32 else 1)
    ]


def adaptive(rng: np.random.Generator) -> list[Row]:
    """Noise, drawn around the best so far after 15 blind draws."""
    rows: list[Row] = []
    values: list[float] = []
    for i in range(60):
        if i < 15 or rng.random() < 0.2:
            lr, aux = 10 ** rng.uniform(-4.5, -2.5), 10 ** rng.uniform(-3, 0)
        else:
            best = rows[int(np.argsort(values)[rng.integers(3)])]
            lr, aux = (best[key] * 10 ** (0.15 * rng.normal()) for key in ("lr", "aux_coeff"))
        values.append(0.1 * rng.normal())
        rows.append(_measured({"lr": lr, "aux_coeff": aux}, values[-1], rng))
    return rows


def lost_at_random(rng: np.random.Generator) -> list[Row]:
    """Noise, and every run is NaN with a chance of a sixth."""
    rows = [
        _measured({**row, "seed": s}, 0.05 * rng.normal(), rng)
        for row in _grid(LEVELS, rng)
        for s in range(2)
    ]
    return [{**row, "fvu": "nan"} if rng.random() < 1 / 6 else row for row in rows]


def shifting(rng: np.random.Generator) -> list[Row]:
    """The best lr falls with k; noise of 2 %, one or two seeds."""
    return [
        _measured(
            {**row, "seed": s},
            0.25 * (LR.index(row["lr"]) - (3 - K.index(row["k"]))) ** 2 + 0.02 * rng.normal(),
            rng,
        )
        for row in _grid({"k": K, "lr": LR}, rng)
        for s in range(int(rng.integers(1, 3)))
    ]


def crossover(rng: np.random.Generator) -> list[Row]:
    """Higher lr helps at one k and harms at the other; no effect on the mean."""
    levels = {"k": (16, 64), "lr": LR[:3], "batch_size": (1024, 2048, 4096)}
    return [
        _measured(
            {**row, "seed": s},
            0.08 * (LR.index(row["lr"]) - 1) * (1 if row["k"] == 16 else -1) + 0.03 * rng.normal(),
            rng,
        )
        for row in _grid(levels, rng)
        for s in range(2)
    ]


def flat_then_worse(rng: np.random.Generator) -> list[Row]:
    """Nothing over three lr, then 22 % and 82 % worse; noise of 2 %."""
    worse = (0.0, 0.0, 0.0, 0.2, 0.6)
    return [
        _measured(row, worse[i] - 0.12 * np.log2(row["k"] / 16) + 0.02 * rng.normal(), rng)
        for row in _grid({"lr": (*LR, 1.6e-3), "k": (16, 32, 64)}, rng)
        for i in [(*LR, 1.6e-3).index(row["lr"])]
    ]


def ruinous(rng: np.random.Generator) -> list[Row]:
    """aux_coeff 0.5 and 1 ruin two runs of five and seven of ten."""
    chance = {0: 0.0, 0.1: 0.0, 0.5: 0.4, 1: 0.7}
    levels = {
        "aux_coeff": tuple(chance),
        "k": (16, 32, 64),
        "lr": LR[:3],
        "expansion_factor": (4, 8),
    }
    return [
        _measured(
            row,
            3 * rng.random() + 2 if rng.random() < chance[row["aux_coeff"]] else 0.1 * rng.normal(),
            rng,
        )
        for row in _grid(levels, rng)
    ]


def simpson(rng: np.random.Generator) -> list[Row]:
    """Higher lr and higher k both lower fvu, and were chosen against each other."""
    rows = []
    for i, k in enumerate(K):
        for j, lr in enumerate(LR):
            for batch in (1024, 2048, 4096):
                if rng.random() < (0.9 if i + j in (2, 3, 4) else 0.15):
                    effect = -0.3 * i - 0.1 * j + 0.03 * rng.normal()
                    rows.append(_measured({"k": k, "lr": lr, "batch_size": batch}, effect, rng))
    return rows


def _on(claim: Claim, name: str) -> bool:
    return (getattr(claim, "hyperparameter", ""), getattr(claim, "metric", "")) == (name, "fvu")


def _moves(claim: Claim) -> bool:
    return (
        isinstance(claim, Interacts) and claim.moves and (claim.first, claim.second) == ("lr", "k")
    )


def _shifts_back(claim: Claim) -> bool:
    best = (
        {float(at): LR.index(float(level)) for at, level, _ in claim.best} if _moves(claim) else {}
    )
    return any(abs(place - (3 - K.index(int(at)))) > 1 for at, place in best.items())


def _crosses_back(claim: Claim) -> bool:
    best = {at: float(level) for at, level, _ in claim.best} if _moves(claim) else {}
    return best.get("16", 0) > best.get("64", 1)


def _falls(claim: Claim, name: str) -> bool:
    return _on(claim, name) and isinstance(claim, Goes) and claim.sign < 0


def _rises(claim: Claim, name: str) -> bool:
    return (_on(claim, name) and isinstance(claim, Goes) and claim.sign > 0) or (
        _on(claim, name) and isinstance(claim, Flat) and claim.change > 0
    )


def _is_hockey(claim: Claim) -> bool:
    return _on(claim, "lr") and isinstance(claim, Flat) and claim.starts_flat and claim.change > 0


def _is_cause(claim: Claim) -> bool:
    return isinstance(claim, FailuresBySetting) and claim.hyperparameter == "aux_coeff"


NOTHING = [
    Kind("variance grows with k", heteroscedastic, None),
    Kind("rows written two or three times", repeated, None),
    Kind("checkpoints of one run", checkpoints, None),
    Kind("seeds that shift all trials", paired, None),
    Kind("extra seeds for one k, seeds that shift all", unequal_seeds, None),
    Kind("draws around the best so far", adaptive, None),
    Kind("runs lost at random", lost_at_random, None),
]
PLANTED = [
    Kind("the best lr falls with k", shifting, _moves, _shifts_back),
    Kind("lr helps at one k, harms at another", crossover, _moves, _crosses_back),
    Kind("flat, then worse", flat_then_worse, _is_hockey, lambda one: _falls(one, "lr")),
    Kind(
        "a setting that ruins runs",
        ruinous,
        _is_cause,
        lambda one: isinstance(one, FailuresBySetting) and not _is_cause(one),
    ),
    Kind(
        "two settings chosen against each other",
        simpson,
        lambda one: (
            _falls(one, "lr") or (_on(one, "lr") and isinstance(one, Flat) and one.change < 0)
        ),
        lambda one: _rises(one, "lr") or _rises(one, "k"),
    ),
]
