"""Which trials stand first, by a score that has a name."""

from typing import NamedTuple

import pandas as pd

from analysis.fronts import fronts
from analysis.study import RANKED_BY, Study

BALANCED = "mean rank of fvu and dead_features"


class Pick(NamedTuple):
    """A trial that is recommended as it stands."""

    title: str
    uid: str
    undominated_in: str
    """The objectives for which no other trial beats it."""


def lowest(study: Study, metric: str) -> pd.DataFrame:
    """Ranked trials by one metric, lowest first; ties by the others, then by label."""
    if metric not in study.ranked:
        return study.ranked.head(0)
    others = [name for name in (*RANKED_BY, "l0") if name in study.ranked and name != metric]
    order = [metric, *others, "label"]
    return study.ranked.dropna(subset=[metric]).sort_values(order, kind="stable")


def balanced(study: Study) -> pd.DataFrame:
    """Ranked trials by the mean of their ranks in fvu and in dead_features (column `score`).

    Equal values share the mean of their ranks.
    """
    if any(name not in study.ranked for name in RANKED_BY):
        return study.ranked.head(0)
    both = study.ranked.dropna(subset=list(RANKED_BY))
    scored = both.assign(score=both[list(RANKED_BY)].rank(method="average").mean(axis=1))
    return scored.sort_values(["score", "fvu", "label"], kind="stable")


def picks(study: Study) -> list[Pick]:
    """Existing trials worth starting from: each one on a front, none put together from several.

    Lowest fvu breaks its ties by dead_features, fewest dead by fvu, so that no other trial beats
    either on both; a better score in neither rank can be had than by the balanced one.
    """
    found = []
    both = "fvu down, dead_features down"
    if len(first := lowest(study, "fvu")):
        has_dead = "dead_features" in study.ranked
        found.append(
            Pick("Lowest fvu observed", str(first.index[0]), both if has_dead else "fvu down")
        )
    if len(first := lowest(study, "dead_features")):
        found.append(Pick("Fewest dead latents observed", str(first.index[0]), both))
    if len(first := balanced(study)):
        found.append(Pick("Balanced: lowest " + BALANCED, str(first.index[0]), both))
    if study.l0_varies:
        front = fronts(study)[0]
        candidates = study.trials.loc[front.uids]
        # trials of one k differ in the last digits of l0 by chance: among those the best fvu counts
        rounded = candidates["l0"].map(lambda l0: float(f"{l0:.1e}"))
        sparsest = candidates[rounded == rounded.min()].sort_values(["fvu", "label"], kind="stable")
        found.append(Pick("Sparsest on the front", str(sparsest.index[0]), front.name))
    return found


def leaders(study: Study) -> list[str]:
    """Trials that figures show in colour: the recommended ones, then the first front's."""
    front = [uid for one in fronts(study)[:1] for uid in one.uids]
    return list(dict.fromkeys([*(pick.uid for pick in picks(study)), *front]))
