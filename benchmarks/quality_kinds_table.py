"""The tables of the quality benchmark over architectures: what the lines of its results say."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
TARGETS = (16, 32, 64)
"""Active latents per token at which architectures are compared."""
TOLERANCE = 0.2
"""A cell is told apart where no point of its curve has an L0 as near as this, as a share."""


def ends(points: pd.DataFrame, target: float) -> pd.DataFrame:
    """The two neighbours of a curve on whose line an L0 lies, or nearest to it."""
    points = points.sort_values("l0")
    first = min(max(int(points["l0"].searchsorted(target)) - 1, 0), len(points) - 2)
    return points.iloc[first : first + 2]


def at_l0(points: pd.DataFrame, target: float, column: str = "fvu") -> float:
    """FVU or another column of a curve at an L0, linear in logarithms, also beyond its ends."""
    between = ends(points, target)
    (x0, x1), (y0, y1) = (np.log(between[name].to_numpy()) for name in ("l0", column))
    return math.exp(y0 + (y1 - y0) / (x1 - x0) * (math.log(target) - x0))


def is_near(l0: pd.Series, target: float) -> bool:
    """Whether a training ended near an L0."""
    return bool(((l0 / target - 1).abs() <= TOLERANCE).any())


def best_rates(lines: Sequence[dict[str, Any]]) -> dict[int, float]:
    """The learning rate whose curve is lowest, by the L0 at which it is read."""
    runs = pd.DataFrame(lines)
    found = {
        target: {lr: at_l0(curve, target) for lr, curve in runs.groupby("lr")} for target in TARGETS
    }
    return {target: min(by_rate, key=by_rate.__getitem__) for target, by_rate in found.items()}


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section of one regime: how it was measured, and the cells."""
    runs = pd.DataFrame(lines)
    cells = pd.DataFrame(
        [cell for _, part in runs.groupby(["kind", "trainer"], sort=False) for cell in _cells(part)]
    )
    return "\n\n".join([_setting(runs), _table(cells), _verdicts(cells)])


def _cells(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per L0 of one architecture and trainer."""
    first, second = (runs[runs["seed"] == seed] for seed in (0, 1))
    cells = []
    for target, lr in best_rates(first.to_dict("records")).items():
        curves = [seed[seed["lr"] == lr] for seed in (first, second)]
        logs = [math.log(at_l0(curve, target)) for curve in curves]
        nearest = [curve.iloc[(curve["l0"] / target - 1).abs().argmin()] for curve in curves]
        cells.append(
            {
                **{"kind": runs["kind"].iloc[0], "trainer": runs["trainer"].iloc[0]},
                **{"target": target, "lr": lr, "log_fvu": float(np.mean(logs))},
                "deviation": logs[1] - logs[0],
                "dead": float(np.mean([one["dead_features"] for one in nearest])),
                "far": not all(is_near(curve["l0"], target) for curve in curves),
                "seconds": runs["cpu_seconds"].sum(),
            }
        )
    return cells


def _detectable(cells: pd.DataFrame) -> float:
    """Smallest difference of two means of two seeds that counts: t * sd * sqrt(2 / 2)."""
    sd = math.sqrt((cells["deviation"] ** 2 / 2).mean())
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(cells))) * sd


def _compared(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per architecture, L0 and trainer of ours: against the best peer."""
    rows = []
    for (kind, target), cell in cells.groupby(["kind", "target"], sort=False):
        by_trainer = cell.set_index("trainer")["log_fvu"]
        ours = [name for name in by_trainer.index if _is_ours(name)]
        peers = by_trainer.drop(ours)
        noise = _detectable(cells[cells["kind"] == kind])
        for name in ours:
            ratio = by_trainer[name] - peers.min()
            verdict = "worse" if ratio > noise else "better" if ratio < -noise else "equal"
            rows.append((kind, target, name, ratio, peers.idxmin(), noise, verdict))
    columns = ["kind", "target", "trainer", "ratio", "peer", "noise", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _is_ours(trainer: str) -> bool:
    return trainer.startswith("sae-sweep")


def _setting(runs: pd.DataFrame) -> str:
    versions = runs.drop_duplicates("trainer").set_index("trainer")["version"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows = runs["regime"].iloc[0]
    return (
        f"`python -m benchmarks.quality_kinds --rows {rows}`, {_all(runs['date'])}: {len(runs)} "
        f"trainings of {_all(runs['steps'])} steps, {_all(runs['n_latents'])} latents; {named}; "
        f"torch {_all(runs['torch'])}; {_all(runs['cpu'])}, threads: {_all(runs['threads'])}."
    )


def _all(column: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(set(column)))


def _table(cells: pd.DataFrame) -> str:
    """FVU, mean of two seeds; in brackets the learning rate that was best, and dead latents.

    Where ours stands twice, so do what follows from it, in the same order.
    """
    trainers = sorted(dict.fromkeys(cells["trainer"]), key=lambda name: not _is_ours(name))
    found = cells.set_index(["kind", "target", "trainer"])
    rows = []
    for (kind, target), compared in _compared(cells).groupby(["kind", "target"], sort=False):
        entries = []
        for trainer in trainers:
            if (kind, target, trainer) not in found.index:
                entries.append("")
                continue
            one = found.loc[(kind, target, trainer)]
            rate = f"{one['lr']:.0e}".replace("e-0", "e-")
            far = "~" if one["far"] else ""
            entries.append(f"{far}{math.exp(one['log_fvu']):.4f} ({rate}, {one['dead']:.0%})")
        changes = [f"{math.expm1(ratio):+.1%}" for ratio in compared["ratio"]]
        noise, peer = f"{math.expm1(compared['noise'].iloc[0]):.1%}", compared["peer"].iloc[0]
        verdicts = ", ".join(compared["verdict"])
        rows.append([kind, str(target), *entries, peer, ", ".join(changes), noise, verdicts])
    header = ["kind", "L0", *trainers, "best peer", "ours to it", "detectable", "verdict"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _verdicts(cells: pd.DataFrame) -> str:
    told = []
    for name, compared in _compared(cells).groupby("trainer", sort=False):
        counts = compared["verdict"].value_counts()
        counted = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
        told.append(f"Of {len(compared)} cells of {name}, against the best peer: {counted}.")
    seconds = cells.drop_duplicates(["kind", "trainer"]).groupby("trainer", sort=False)["seconds"]
    spent = ", ".join(f"{name} {total:,.0f}" for name, total in seconds.sum().items())
    return (
        f"{' '.join(told)} L0 marked ~ is not within {TOLERANCE:.0%} of any training's. "
        f"CPU seconds of all trainings: {spent}."
    )
