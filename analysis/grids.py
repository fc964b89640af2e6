"""Sparsity by width as tables: medians with their counts, and what each step gains."""

import itertools
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.study import Study

MOST_LEVELS = 8
"""Distinct k or widths above which a sweep is no grid."""


class Grid(NamedTuple):
    """A metric of the ranked TopK trials over k and n_latents."""

    metric: str
    ks: list[float]
    widths: list[float]
    medians: Float[np.ndarray, "ks widths"]
    """NaN where no trial is."""
    counts: Int[np.ndarray, "ks widths"]


class Gain(NamedTuple):
    """One step of a grid, everything else at its median."""

    metric: str
    along: Literal["n_latents", "k"]
    at: float
    """The level of the other setting."""
    start: float
    end: float
    n_start: int
    n_end: int
    before: float
    after: float

    @property
    def points(self) -> float:
        """Change of a share, in percentage points."""
        return 100 * (self.after - self.before)

    @property
    def percent(self) -> float:
        """Change relative to the value before; NaN where that is 0."""
        return 100 * (self.after / self.before - 1) if self.before else float("nan")

    @property
    def of_unexplained(self) -> float:
        """Change as percentage of what the value before leaves to 1; NaN where that is nothing."""
        left = 1 - self.before
        return 100 * (self.after - self.before) / left if left else float("nan")


def grid(study: Study, metric: str) -> Grid | None:
    """Medians over everything else; None unless TopK trials vary both k and n_latents."""
    table = _topk(study)
    ks, widths = (sorted(table[name].dropna().unique()) for name in ("k", "n_latents"))
    if not (1 < len(ks) <= MOST_LEVELS and 1 < len(widths) <= MOST_LEVELS):
        return None
    values = 1 - table["fvu"] if metric == "explained_variance" else table.get(metric)
    if values is None or not values.notna().any():
        return None
    medians = np.full((len(ks), len(widths)), np.nan)
    counts = np.zeros(medians.shape, dtype=int)
    for i, k in enumerate(ks):
        for j, m in enumerate(widths):
            cell = values[(table["k"] == k) & (table["n_latents"] == m)].dropna()
            counts[i, j] = len(cell)
            medians[i, j] = cell.median() if len(cell) else np.nan
    return Grid(metric, [float(k) for k in ks], [float(m) for m in widths], medians, counts)


def _topk(study: Study) -> pd.DataFrame:
    is_topk = [record.config.get("sae", {}).get("kind") == "topk" for record in study.records]
    return study.trials[study.trials["ranked"] & np.array(is_topk, dtype=bool)]


def gains(found: Grid, along: Literal["n_latents", "k"]) -> list[list[Gain]]:
    """A list a level of the other setting: every step between neighbours, then from end to end.

    Cells without a trial are passed over.
    """
    medians, counts = found.medians, found.counts
    levels, others = found.widths, found.ks
    if along == "k":
        medians, counts, levels, others = medians.T, counts.T, others, levels
    rows = []
    for values, n, other in zip(medians, counts, others, strict=True):
        known = [i for i in range(len(levels)) if not np.isnan(values[i])]
        steps = list(itertools.pairwise(known))
        steps += [(known[0], known[-1])] if len(known) > 2 else []
        rows.append(
            [
                Gain(
                    found.metric,
                    along,
                    other,
                    levels[i],
                    levels[j],
                    int(n[i]),
                    int(n[j]),
                    float(values[i]),
                    float(values[j]),
                )
                for i, j in steps
            ]
        )
    return rows


class Use(NamedTuple):
    """How the latents of one kind, sparsity and width are used: medians over ranked trials."""

    kind: str
    sparsity: float
    """k, or l1_alpha."""
    n_latents: int
    n: int
    medians: dict[str, float]
    """By column: alive (latents), alive_share, alive_per_active, and metrics; NaN where missing."""


USED = ("dead_features", "rare_features", "always_on", "mean_activation", "max_activation")


def use(study: Study) -> list[Use]:
    """Every combination of kind, sparsity and width, ascending."""
    saes = [record.config.get("sae", {}) for record in study.records]
    given = [sae.get("l1_alpha" if sae.get("kind") == "l1" else "k") for sae in saes]
    table = study.trials[["ranked", "n_latents"]].assign(
        kind=[str(sae.get("kind")) for sae in saes],
        sparsity=[np.nan if one is None else float(one) for one in given],
        **{name: study.trials.get(name, np.nan) for name in (*USED, "l0")},
    )
    table = table[table["ranked"]].drop(columns="ranked")
    table["alive_share"] = 1 - table["dead_features"]
    table["alive"] = table["n_latents"] * table["alive_share"]
    table["alive_per_active"] = table["alive"] / table["l0"].where(table["l0"] > 0)
    keys = ["kind", "sparsity", "n_latents"]
    groups = table.groupby(keys, sort=True)
    rows = groups.median().assign(n=groups.size()).reset_index().to_dict("records")
    return [
        Use(
            str(row["kind"]),
            float(row["sparsity"]),
            int(row["n_latents"]),
            int(row["n"]),
            {str(name): float(row[name]) for name in row if name not in (*keys, "n")},
        )
        for row in rows
    ]


def impossible(study: Study) -> list[str]:
    """Trials whose l0 exceeds the latents that are alive, which no measurement can find."""
    needed = ("l0", "dead_features", "n_latents")
    if any(name not in study.trials for name in needed):
        return []
    alive = study.trials["n_latents"] * (1 - study.trials["dead_features"])
    over = study.trials["l0"] > alive * (1 + 1e-9) + 1e-9
    return [str(uid) for uid in study.trials.index[over]]
