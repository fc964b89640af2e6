"""Which configurations stand first, by a score that has a name, and how sure their places are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.findings import noise
from analysis.findings.fronts import front, fronts
from analysis.study import configurations
from analysis.study.table import RANKED_BY, Study
from sae_sweep.records import METRICS, Metric

DRAWS = 1000


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


def lowest(study: Study, metric: str) -> pd.DataFrame:
    """Configurations by one metric, lowest first; ties by the others, then by label."""
    rows = study.configurations
    if metric not in rows:
        return rows.head(0)
    others = [name for name in (*RANKED_BY, "l0") if name in rows and name != metric]
    return rows.dropna(subset=[metric]).sort_values([metric, *others, "label"], kind="stable")


def balanced(study: Study) -> pd.DataFrame:
    """Configurations by the mean of their ranks in the main metrics (column `score`).

    Equal values share the mean of their ranks.
    """
    names = [one.name for one in study.main_metrics]
    if any(name not in names for name in RANKED_BY):
        return study.configurations.head(0)
    whole = study.configurations.dropna(subset=names)
    scored = whole.assign(score=whole[names].rank(method="average").mean(axis=1))
    return scored.sort_values(["score", "fvu", "label"], kind="stable")


def balanced_name(study: Study) -> str:
    """The balanced score in words."""
    names = [one.name for one in study.main_metrics]
    return f"mean rank of {', '.join(names[:-1])} and {names[-1]}" if names[1:] else "mean rank"


def picks(study: Study) -> list[Pick]:
    """Existing configurations worth starting from, one a use; none put together from several.

    Each is on a front: lowest fvu breaks its ties by dead_features, fewest dead by fvu, and a
    configuration that another beats in every main metric has no lowest mean rank.
    """
    found = []
    both = "fvu down, dead_features down"
    if len(first := balanced(study)):
        every = ", ".join(f"{one.name} down" for one in study.main_metrics)
        found.append(Pick("Balanced", _uid(first), "lowest " + balanced_name(study), None, every))
    if len(first := lowest(study, "fvu")):
        named = both if "dead_features" in first else "fvu down"
        found.append(Pick("High reconstruction", _uid(first), "lowest fvu", "fvu", named))
    if study.l0_varies and fronts(study):
        found.append(_sparsest(study))
    widths = study.configurations["n_latents"]
    if widths.min() < widths.max():
        narrow = front(study, ["n_latents", "fvu"])
        rows = study.configurations.loc[narrow.uids]
        small = rows.sort_values(["n_latents", "fvu", "label"], kind="stable")
        criterion = "lowest fvu of the smallest n_latents"
        found.append(Pick("Small model", _uid(small), criterion, None, "fvu down, n_latents down"))
    if len(first := lowest(study, "dead_features")):
        found.append(
            Pick("Feature utilisation", _uid(first), "fewest dead latents", "dead_features", both)
        )
    return found


def _sparsest(study: Study) -> Pick:
    on_front = fronts(study)[0]
    rows = study.configurations.loc[on_front.uids]
    # trials of one k differ in the last digits of l0 by chance: among those the lowest fvu counts
    rounded = rows["l0"].map(lambda l0: float(f"{l0:.1e}"))
    sparsest = rows[rounded == rounded.min()].sort_values(["fvu", "label"], kind="stable")
    criterion = "lowest fvu of the lowest l0, to two digits"
    return Pick("Extreme sparsity", _uid(sparsest), criterion, None, on_front.name)


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
    seeds = rows["seeds"].to_numpy()
    # equal values differ by nothing, also where both are a logarithm's -inf
    with np.errstate(invalid="ignore"):
        distance = np.where(values == values[0], 0.0, np.abs(values - values[0]))
    return pd.Series(distance <= found.between(seeds[0], seeds), index=rows.index)


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
