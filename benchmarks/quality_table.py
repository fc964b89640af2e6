"""The table of the quality benchmark: what the lines of its results say."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


class Noise(NamedTuple):
    """How much the log of FVU moves when only the seed changes."""

    sd: float
    """Pooled over all pairs of seeds."""
    pairs: int
    """Degrees of freedom: each pair gives one."""

    @property
    def detectable(self) -> float:
        """Smallest difference of two means of two seeds that counts: t * sd * sqrt(2 / 2)."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.pairs)) * self.sd


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section: how it was measured, the cells, the trainers."""
    runs = pd.DataFrame(lines)
    pairs = _pairs(runs)
    noise = _noise(pairs)
    trainers = list(dict.fromkeys(runs["trainer"]))
    compared = _compare(pairs, trainers, noise)
    return "\n\n".join(
        [
            _setting(runs, noise),
            _cells(pairs, compared, trainers),
            _verdicts(compared),
            _totals(runs, pairs, trainers),
        ]
    )


def _pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and trainer: log FVU of seeds 0 and 1 at the rate that seed 1 repeats."""
    key = ["n_latents", "k", "trainer"]
    second = runs[runs["seed"] == 1]
    first = runs[runs["seed"] == 0]
    both = second.merge(first, on=[*key, "lr"], suffixes=("_1", "_0"))
    logs = np.log(both[["fvu_0", "fvu_1"]].to_numpy())
    return pd.DataFrame(
        {
            **{name: both[name] for name in [*key, "lr"]},
            "log_fvu": logs.mean(axis=1),
            "fvu": both[["fvu_0", "fvu_1"]].mean(axis=1),
            "deviation": logs[:, 1] - logs[:, 0],
            "dead_features": both[["dead_features_0", "dead_features_1"]].mean(axis=1),
        }
    )


def _noise(pairs: pd.DataFrame) -> Noise:
    variances = pairs["deviation"].to_numpy() ** 2 / 2
    return Noise(math.sqrt(variances.mean()), len(variances))


def _compare(pairs: pd.DataFrame, trainers: list[str], noise: Noise) -> pd.DataFrame:
    """One row per cell: log ratio of the first trainer's FVU and the best other one's."""
    logs = pairs.pivot_table(index=["n_latents", "k"], columns="trainer", values="log_fvu")
    ours, peers = logs[trainers[0]], logs[trainers[1:]]
    ratio = ours - peers.min(axis=1)
    verdict = np.select(
        [ratio > noise.detectable, ratio < -noise.detectable], ["worse", "better"], "equal"
    )
    return pd.DataFrame({"ratio": ratio, "peer": peers.idxmin(axis=1), "verdict": verdict})


def _setting(runs: pd.DataFrame, noise: Noise) -> str:
    versions = runs.drop_duplicates("trainer").set_index("trainer")["version"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"`python -m benchmarks.quality`, {_all(runs['date'])}: {len(runs)} trainings of "
        f"{_all(runs['steps'])} steps; {named}; torch {_all(runs['torch'])}; "
        f"{_all(runs['cpu'])}, threads: {_all(runs['threads'])}.\n\n"
        f"Noise: between seeds at one setting the log of FVU has a standard deviation of "
        f"{noise.sd:.2%} ({noise.pairs} pairs). Two means of two seeds differ when they are more "
        f"than {noise.detectable:.2%} apart ({CONFIDENCE:.0%} confidence)."
    )


def _all(column: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(set(column)))


def _cells(pairs: pd.DataFrame, compared: pd.DataFrame, trainers: list[str]) -> str:
    """FVU, mean of two seeds, and in brackets the learning rate that was best."""
    found = pairs.set_index(["n_latents", "k", "trainer"])
    rows = []
    for (n_latents, k), cell in compared.iterrows():
        entries = []
        for trainer in trainers:
            one = found.loc[(n_latents, k, trainer)]
            entries.append(f"{one['fvu']:.4f} ({one['lr']:.0e})".replace("e-0", "e-"))
        change = f"{math.expm1(cell['ratio']):+.2%} against {cell['peer']}"
        rows.append([str(n_latents), str(k), *entries, change, cell["verdict"]])
    header = ["n_latents", "k", *trainers, f"{trainers[0]}, best peer", "verdict"]
    return _markdown(header, rows)


def _verdicts(compared: pd.DataFrame) -> str:
    counts = compared["verdict"].value_counts()
    told = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
    return f"Of {len(compared)} cells, ours against the best peer of the cell: {told}."


def _totals(runs: pd.DataFrame, pairs: pd.DataFrame, trainers: list[str]) -> str:
    """One row a trainer, over all cells."""
    logs = pairs.pivot_table(index=["n_latents", "k"], columns="trainer", values="log_fvu")
    rows = []
    for trainer in trainers:
        mine = pairs[pairs["trainer"] == trainer]
        difference = (logs[trainers[0]] - logs[trainer]).mean()
        own = "" if trainer == trainers[0] else f"{math.expm1(difference):+.2%}"
        rows.append(
            [
                trainer,
                own,
                f"{_noise(mine).sd:.2%}",
                f"{mine['dead_features'].mean():.1%}",
                f"{runs.loc[runs['trainer'] == trainer, 'cpu_seconds'].sum():,.0f}",
            ]
        )
    header = [
        "trainer",
        f"{trainers[0]} against it, mean of cells",
        "seed-to-seed sd of log FVU",
        "dead latents, mean of cells",
        "CPU seconds, all trainings",
    ]
    return _markdown(header, rows)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
