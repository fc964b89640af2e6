"""Rankings of configurations by named scores, with their uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.findings import noise
from analysis.findings.fronts import fronts
from analysis.study import configurations
from analysis.study.table import RANKED_BY, Study
from sae_sweep.records import METRICS, Metric

DRAWS = 1000
ONE_SIZE = 1.1
"""Widths within a tenth of the smallest count as one size."""


class Pick(NamedTuple):
    """A configuration that is recommended as it stands, by its first trial."""

    title: str
    """What it is for."""
    uid: str
    criterion: str
    """By what it was chosen."""
    metric: str | None
    """The metric of which it has the lowest value of all configurations; None for other scores."""
    undominated_in: str
    """The objectives for which no other configuration beats it."""


def whole(study: Study) -> pd.DataFrame:
    """The configurations without a failed run; all where there is none."""
    rows = study.configurations
    survived = rows[rows["lost"] == 0]
    return survived if len(survived) else rows


def lowest(study: Study, metric: str, among: pd.DataFrame | None = None) -> pd.DataFrame:
    """Configurations by one metric, lowest first; ties by the others, then by label.

    Of all configurations unless some are named.
    """
    rows = study.configurations if among is None else among
    if metric not in rows:
        return rows.head(0)
    others = [name for name in (*RANKED_BY, "l0", "k") if name in rows and name != metric]
    return rows.dropna(subset=[metric]).sort_values([metric, *others, "label"], kind="stable")


def scored_by(study: Study) -> list[str]:
    """What the balanced score ranks by: the main metrics, and k where it stands in for l0."""
    names = [one.name for one in study.main_metrics]
    return [*names, "k"] if study.sparsity == "k" else names


def balanced(study: Study, among: pd.DataFrame | None = None) -> pd.DataFrame:
    """Configurations by the mean of their ranks in the main metrics (column `score`).

    Equal values share the mean of their ranks.
    """
    names = scored_by(study)
    rows = study.configurations if among is None else among
    if any(name not in names for name in RANKED_BY):
        return rows.head(0)
    complete = rows.dropna(subset=names)
    scored = complete.assign(score=complete[names].rank(method="average").mean(axis=1))
    return scored.sort_values(["score", "fvu", "label"], kind="stable")


def balanced_name(study: Study) -> str:
    """The balanced score in words."""
    names = scored_by(study)
    return f"mean rank of {', '.join(names[:-1])} and {names[-1]}" if names[1:] else "mean rank"


def picks(study: Study) -> list[Pick]:
    """Existing configurations worth starting from, one a use; none put together from several.

    Of those of which no run came to nothing, where there are such. Each is on a front of these:
    lowest fvu breaks its ties by dead_features, fewest dead by fvu, and a configuration that
    another beats in every main metric has no lowest mean rank.
    """
    found = []
    among = whole(study)
    both = "fvu down, dead_features down"
    if len(first := balanced(study, among)):
        every = ", ".join(f"{one} down" for one in scored_by(study))
        found.append(Pick("Balanced", _uid(first), "lowest " + balanced_name(study), None, every))
    if len(first := lowest(study, "fvu", among)):
        named = both if "dead_features" in first else "fvu down"
        found.append(Pick("High reconstruction", _uid(first), "lowest fvu", "fvu", named))
    if study.sparsity is not None and len(first):
        found.append(_sparsest(among, study.sparsity))
    widths = among["n_latents"].dropna()
    if len(widths) and widths.min() < widths.max() and len(first):
        small = lowest(study, "fvu", among[among["n_latents"] <= ONE_SIZE * widths.min()])
        if len(small):
            criterion = "lowest fvu of the smallest n_latents, to a tenth"
            objectives = "fvu down, n_latents down"
            found.append(Pick("Small model", _uid(small), criterion, None, objectives))
    if len(first := lowest(study, "dead_features", among)):
        found.append(
            Pick("Feature utilisation", _uid(first), "fewest dead latents", "dead_features", both)
        )
    return found


def _sparsest(among: pd.DataFrame, sparsity: str) -> Pick:
    rows = among.dropna(subset=["fvu", sparsity])
    # trials of one k differ in the last digits of l0 by chance: among those the lowest fvu counts
    rounded = rows[sparsity].map(lambda value: float(f"{value:.1e}"))
    sparsest = rows[rounded == rounded.min()].sort_values(["fvu", "label"], kind="stable")
    criterion = f"lowest fvu of the lowest {sparsity}, to two digits"
    return Pick("Extreme sparsity", _uid(sparsest), criterion, None, f"fvu down, {sparsity} down")


def _uid(rows: pd.DataFrame) -> str:
    return str(rows.index[0])


def leaders(study: Study) -> list[str]:
    """Trials that figures show in colour: the recommended ones, then the first front's."""
    on_front = [uid for one in fronts(study)[:1] for uid in one.uids]
    return list(dict.fromkeys([*(pick.uid for pick in picks(study)), *on_front]))


def tied_with_first(study: Study, metric: Metric, rows: pd.DataFrame) -> "pd.Series[bool] | None":
    """Which rows, the first included, noise does not tell from the first; None where unknown."""
    found = noise.floor(study, metric)
    if found is None or rows.empty:
        return None
    values = configurations.on_scale(rows, metric)
    # equal values differ by nothing, also where both are a logarithm's -inf
    with np.errstate(invalid="ignore"):
        distance = np.where(values == values[0], 0.0, np.abs(values - values[0]))
    return pd.Series(distance <= found.apart(rows.head(1), rows)[0], index=rows.index)


def rank_ranges(
    study: Study, metrics: Sequence[Metric], shown: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Between which ranks 95 % of the draws put each shown configuration; empty without noise.

    A draw adds normal noise, of the pooled sd over the root of the seeds, to every configuration,
    and ranks them anew: by the metric, or by the mean of their ranks in several.
    """
    floors = {one.name: noise.floor(study, one) for one in metrics}
    rows = study.configurations.dropna(subset=list(floors))
    generator = np.random.default_rng(0)
    scores = np.zeros((DRAWS, len(rows)))
    for name, found in floors.items():
        if found is None:
            return {}
        spread = found.sd / np.sqrt(rows["seeds"].to_numpy())
        centre = configurations.on_scale(rows, METRICS[name])
        drawn = centre + spread * generator.standard_normal(scores.shape)
        scores += stats.rankdata(drawn, axis=1) if len(floors) > 1 else drawn
    ranges = {}
    for uid in shown:
        own = scores[:, rows.index.get_indexer(pd.Index([uid]))]
        low, high = np.quantile(
            1 + (scores < own).sum(axis=1), [0.025, 0.975], method="inverted_cdf"
        )
        ranges[uid] = (int(low), int(high))
    return ranges
