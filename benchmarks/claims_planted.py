"""Sweeps in which one thing matters, of the shapes that a report overlooks."""

from typing import Any

import numpy as np

from analysis.page.blocks import Claim
from analysis.topics.effects.claims import Bent, Flat, Goes
from analysis.topics.failures import FailuresBySetting, FailuresOfPair
from analysis.topics.interactions import Interacts
from benchmarks.claims_kinds import LEVELS, LR, K, Kind, Row, grid, measured

RATES = (*LR, 1.6e-3)


def shifting(rng: np.random.Generator) -> list[Row]:
    """The best lr falls with k; noise of 2 %, one or two seeds."""
    return [
        measured(
            {**row, "seed": s},
            0.25 * (LR.index(row["lr"]) - (3 - K.index(row["k"]))) ** 2 + 0.02 * rng.normal(),
            rng,
        )
        for row in grid({"k": K, "lr": LR}, rng)
        for s in range(int(rng.integers(1, 3)))
    ]


def drawn_shifting(rng: np.random.Generator) -> list[Row]:
    """The same over 60 random draws of lr."""
    rows = []
    for _ in range(60):
        i, place = int(rng.integers(4)), rng.uniform(0, 3)
        lr = LR[0] * 2**place
        effect = 0.25 * (place - (3 - i)) ** 2 + 0.02 * rng.normal()
        rows.append(measured({"k": K[i], "lr": float(f"{lr:.4g}")}, effect, rng))
    return rows


def crossover(rng: np.random.Generator) -> list[Row]:
    """Higher lr helps at one k and harms at the other; no effect on the mean."""
    levels = {"k": (16, 64), "lr": LR[:3], "batch_size": (1024, 2048, 4096)}
    return [
        measured(
            {**row, "seed": s},
            0.08 * (LR.index(row["lr"]) - 1) * (1 if row["k"] == 16 else -1) + 0.03 * rng.normal(),
            rng,
        )
        for row in grid(levels, rng)
        for s in range(2)
    ]


def kinds_cross(rng: np.random.Generator) -> list[Row]:
    """Of two kinds one is better at low lr and the other at high lr."""
    levels = {"kind": ("topk", "batchtopk"), "lr": LR, "expansion_factor": (4, 8)}
    return [
        measured(
            {**row, "seed": s},
            0.06 * (LR.index(row["lr"]) - 1.5) * (1 if row["kind"] == "topk" else -1)
            + 0.03 * rng.normal(),
            rng,
        )
        for row in grid(levels, rng)
        for s in range(2)
    ]


def flat_then_worse(rng: np.random.Generator) -> list[Row]:
    """Nothing over three lr, then 22 % and 82 % worse; noise of 2 %."""
    worse = (0.0, 0.0, 0.0, 0.2, 0.6)
    return [
        measured(
            row,
            worse[RATES.index(row["lr"])] - 0.12 * np.log2(row["k"] / 16) + 0.02 * rng.normal(),
            rng,
        )
        for row in grid({"lr": RATES, "k": (16, 32, 64)}, rng)
    ]


def better_then_flat(rng: np.random.Generator) -> list[Row]:
    """45 % and 18 % better over two steps of lr, then nothing; noise of 2 %."""
    worse = (0.6, 0.2, 0.0, 0.0, 0.0)
    return [
        measured({**row, "seed": s}, worse[RATES.index(row["lr"])] + 0.02 * rng.normal(), rng)
        for row in grid({"lr": RATES, "batch_size": (1024, 4096)}, rng)
        for s in range(2)
    ]


def best_inside(rng: np.random.Generator) -> list[Row]:
    """The third of five lr is best, 10 % and 40 % better than those beside; noise of 2 %."""
    return [
        measured(row, 0.1 * (RATES.index(row["lr"]) - 2) ** 2 + 0.02 * rng.normal(), rng)
        for row in grid({"lr": RATES, "batch_size": (1024, 2048, 4096)}, rng)
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
        measured(
            row,
            3 * rng.random() + 2 if rng.random() < chance[row["aux_coeff"]] else 0.1 * rng.normal(),
            rng,
        )
        for row in grid(levels, rng)
    ]


def ruinous_together(rng: np.random.Generator) -> list[Row]:
    """The highest lr ends as NaN in nine runs of ten, where the dictionary is wide."""
    levels = {"lr": LR, "expansion_factor": (4, 8, 16), "k": (16, 32, 64)}
    rows = [
        measured({**row, "seed": s}, 0.05 * rng.normal(), rng)
        for row in grid(levels, rng)
        for s in range(2)
    ]
    return [
        {**row, "fvu": "nan"}
        if row["lr"] == LR[-1] and row["expansion_factor"] == 16 and rng.random() < 0.9
        else row
        for row in rows
    ]


def simpson(rng: np.random.Generator) -> list[Row]:
    """Higher lr and higher k both lower fvu, and were chosen against each other."""
    rows = []
    for i, k in enumerate(K):
        for j, lr in enumerate(LR):
            for batch in (1024, 2048, 4096):
                if rng.random() < (0.9 if i + j in (2, 3, 4) else 0.15):
                    effect = -0.3 * i - 0.1 * j + 0.03 * rng.normal()
                    rows.append(measured({"k": k, "lr": lr, "batch_size": batch}, effect, rng))
    return rows


def reversed_simpson(rng: np.random.Generator) -> list[Row]:
    """Wide dictionaries lower fvu and were run with low lr, which raises it by more."""
    rows = []
    for i, width in enumerate((4, 8, 16)):
        for j, lr in enumerate(LR):
            for batch in (1024, 2048, 4096):
                if rng.random() < (0.9 if i + j in (2, 3) else 0.2):
                    effect = -0.15 * i - 0.3 * j + 0.03 * rng.normal()
                    row = {"expansion_factor": width, "lr": lr, "batch_size": batch}
                    rows.append(measured(row, effect, rng))
    return rows


def paired_effect(rng: np.random.Generator) -> list[Row]:
    """aux_coeff costs 6 %; noise of 2 %, beside shifts of 40 % that seeds give to all."""
    shifts = 0.4 * rng.normal(size=3)
    levels = {key: LEVELS[key] for key in ("lr", "k", "aux_coeff")}
    return [
        measured(
            {**row, "seed": s},
            shifts[s] + 0.06 * bool(row["aux_coeff"]) + 0.02 * rng.normal(),
            rng,
        )
        for row in grid(levels, rng)
        for s in range(3)
    ]


def noisy_effect(rng: np.random.Generator) -> list[Row]:
    """Each step of lr lowers fvu by 10 %; the noise grows fivefold with k, to 10 %."""
    return [
        measured(
            row,
            -0.1 * LR.index(row["lr"]) + 0.02 * (row["k"] / 16) ** 0.8 * rng.normal(),
            rng,
        )
        for row in grid(LEVELS, rng)
    ]


def dead_only(rng: np.random.Generator) -> list[Row]:
    """aux_coeff halves dead_features and does not move fvu."""
    rows: list[dict[str, Any]] = []
    for row in grid(LEVELS, rng):
        dead = max(0.2 - 0.1 * bool(row["aux_coeff"]) + 0.03 * rng.normal(), 0.0)
        rows.append({**measured(row, 0.05 * rng.normal(), rng), "dead_features": f"{dead:.4f}"})
    return rows


def _on(claim: Claim, name: str, metric: str = "fvu") -> bool:
    return (getattr(claim, "hyperparameter", ""), getattr(claim, "metric", "")) == (name, metric)


def _moves(claim: Claim) -> bool:
    return isinstance(claim, Interacts) and claim.moves and _joint(claim, "lr", "k")


def _joint(claim: Claim, first: str, second: str) -> bool:
    return isinstance(claim, Interacts) and (claim.first, claim.second) == (first, second)


def _best(claim: Claim) -> dict[str, str]:
    is_moving = isinstance(claim, Interacts) and claim.moves
    return {at: level for at, level, _ in claim.best} if is_moving else {}


def _shifts_back(claim: Claim) -> bool:
    best = {at: LR.index(float(level)) for at, level in _best(claim).items()}
    return any(abs(place - (3 - K.index(int(at)))) > 1 for at, place in best.items())


def _crosses_back(claim: Claim) -> bool:
    best = {at: float(level) for at, level in _best(claim).items()}
    return best.get("16", 0) > best.get("64", 1)


def _kinds_back(claim: Claim) -> bool:
    """Topk is better at low lr."""
    best = _best(claim)
    return best.get("topk", "0") > best.get("batchtopk", "9") or best.get("0.0001") == "batchtopk"


def _falls(claim: Claim, name: str, metric: str = "fvu") -> bool:
    down = (isinstance(claim, Goes) and claim.sign < 0) or (
        isinstance(claim, Flat) and claim.change < 0
    )
    return _on(claim, name, metric) and down


def _rises(claim: Claim, name: str, metric: str = "fvu") -> bool:
    up = (isinstance(claim, Goes) and claim.sign > 0) or (
        isinstance(claim, Flat) and claim.change > 0
    )
    return _on(claim, name, metric) and up


def _is_flat(claim: Claim, *, first: bool) -> bool:
    return _on(claim, "lr") and isinstance(claim, Flat) and claim.starts_flat is first


def _is_cause(claim: Claim, name: str) -> bool:
    return isinstance(claim, FailuresBySetting) and claim.hyperparameter == name


def _of(*names: str) -> frozenset[str]:
    return frozenset(names)


PLANTED = [
    Kind("the best lr falls with k", shifting, _moves, _shifts_back, _of("lr", "k")),
    Kind(
        "the best lr falls with k, random draws",
        drawn_shifting,
        lambda one: _joint(one, "lr", "k"),
        settings=_of("lr", "k"),
    ),
    Kind("lr helps at one k, harms at another", crossover, _moves, _crosses_back, _of("lr", "k")),
    Kind(
        "lr helps one kind, harms another",
        kinds_cross,
        lambda one: isinstance(one, Interacts) and {one.first, one.second} == {"lr", "kind"},
        _kinds_back,
        _of("lr", "kind"),
    ),
    Kind(
        "flat, then worse",
        flat_then_worse,
        lambda one: _is_flat(one, first=True) and _rises(one, "lr"),
        lambda one: _falls(one, "lr") or _rises(one, "k"),
        _of("lr", "k"),
    ),
    Kind(
        "better, then flat",
        better_then_flat,
        lambda one: _is_flat(one, first=False) and _falls(one, "lr"),
        lambda one: _rises(one, "lr"),
        _of("lr"),
    ),
    Kind(
        "one best level inside",
        best_inside,
        lambda one: _on(one, "lr") and isinstance(one, Bent),
        lambda one: _falls(one, "lr") or _rises(one, "lr"),
        _of("lr"),
    ),
    Kind(
        "a setting that ruins runs",
        ruinous,
        lambda one: _is_cause(one, "aux_coeff"),
        settings=_of("aux_coeff"),
    ),
    Kind(
        "two settings that ruin runs together",
        ruinous_together,
        lambda one: (
            isinstance(one, FailuresOfPair)
            and {one.first, one.second} == {"lr", "expansion_factor"}
        ),
        settings=_of("lr", "expansion_factor"),
    ),
    Kind(
        "two settings chosen against each other",
        simpson,
        lambda one: _falls(one, "lr"),
        lambda one: _rises(one, "lr") or _rises(one, "k"),
        _of("lr", "k"),
    ),
    Kind(
        "wide where lr is low",
        reversed_simpson,
        lambda one: _falls(one, "expansion_factor"),
        lambda one: _rises(one, "lr") or _rises(one, "expansion_factor"),
        _of("lr", "expansion_factor"),
    ),
    Kind(
        "a small effect beside seeds that shift all",
        paired_effect,
        lambda one: _rises(one, "aux_coeff"),
        lambda one: _falls(one, "aux_coeff"),
        _of("aux_coeff"),
    ),
    Kind(
        "an effect where variance grows with k",
        noisy_effect,
        lambda one: _falls(one, "lr"),
        lambda one: _rises(one, "lr"),
        _of("lr"),
    ),
    Kind(
        "dead_features alone",
        dead_only,
        lambda one: _falls(one, "aux_coeff", "dead_features"),
        lambda one: _rises(one, "aux_coeff", "dead_features"),
        _of("aux_coeff"),
    ),
]
