"""Early signals: correlation of early and final ranks."""

import math
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.findings import effect_tests
from analysis.page import style
from analysis.statistics import resampling
from analysis.statistics.resampling import FEWEST
from analysis.study import scales
from analysis.study.table import Study, once
from sae_sweep.records import Metric

CAPTION = "how soon the order of trials is that of the end"
SHARES = (0.05, 0.1, 0.2, 0.5)
"""Of a trial's steps."""


class Signal(NamedTuple):
    """A metric at one moment against its final value, over the ranked trials."""

    metric: Metric
    share: float
    n: int
    """Configurations with both values, of ranked trials; seeds are averaged."""
    spearman: float
    """NaN where `remark` says why."""
    interval: tuple[float, float] | None
    """95 %, by a bootstrap of configurations that are ranked anew in each draw."""
    remark: str
    """Why there is no correlation or no interval; empty otherwise."""


@once
def signals(study: Study) -> list[Signal]:
    """Each main metric at each early share; none where no ranked trial has reported it.

    None either where the trials are of several tasks: their order is not sought.
    """
    if study.tasks > 1:
        return []
    ranked = study.trials["ranked"].to_numpy()
    uids = [str(uid) for uid in study.trials.index[ranked]]
    steps = [record.config.get("train", {}).get("steps") for record in study.records]
    lengths = dict(zip(map(str, study.trials.index), steps, strict=True))
    configuration = study.trials.loc[ranked, "configuration"].to_numpy()
    found = []
    groups = _groups(study.trials.loc[ranked])
    for metric in effect_tests.outcomes(study):
        if metric.name == "l0":  # its order is that of the groups
            continue
        curves = study.history(uids, metric.name)
        if not curves:
            continue
        final = study.scaled.loc[ranked, metric.name].to_numpy(dtype=np.float64)
        for share in SHARES:
            early = np.full(len(uids), np.nan)
            for i, uid in enumerate(uids):
                if uid in curves:
                    length = lengths[uid] or curves[uid][0].max(initial=0)
                    early[i] = _last_before(*curves[uid], share * length)
            both = pd.DataFrame({"early": scales.onto(metric, early), "final": final}).dropna()
            both["group"] = groups[both.index]
            means = both.groupby(configuration[both.index]).mean()
            found.append(_signal(metric, share, *means.to_numpy().T))
    return found


def _groups(trials: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """Trials of one k; without a k, those whose final L0 is the same to a tenth of a decade."""
    k = trials["k"].to_numpy(dtype=np.float64)
    l0 = trials.get("l0", pd.Series(np.nan, index=trials.index)).to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        tenth = -1000.0 + np.round(10 * np.log10(l0))
    return np.where(np.isnan(k), np.nan_to_num(tenth, nan=-1.0, neginf=-2000.0), k)


def _last_before(
    steps: Float[np.ndarray, " t"], values: Float[np.ndarray, " t"], moment: float
) -> float:
    """What was last reported up to a moment; NaN before the first report."""
    place = int(np.searchsorted(steps, moment, side="right")) - 1
    return float(values[place]) if place >= 0 else math.nan


def _signal(
    metric: Metric,
    share: float,
    early: Float[np.ndarray, " n"],
    final: Float[np.ndarray, " n"],
    group: Float[np.ndarray, " n"],
) -> Signal:
    """Correlate ranks within groups of equal L0, since across them it decides the order."""
    sizes = {value: int((group == value).sum()) for value in np.unique(group)}
    kept = np.array([sizes[value] > 1 for value in group], dtype=bool)
    early, final, group = early[kept], final[kept], group[kept]
    n = len(group)
    spearman = float(_within(early, final, group, np.ones((1, n), dtype=np.int64))[0])
    if math.isnan(spearman):
        remark = (
            "not reported by then"
            if not len(kept)
            else "n too small"
            if n < 2
            else "metric constant"
        )
        return Signal(metric, share, n, math.nan, None, remark)
    interval = None
    if n >= FEWEST:
        interval = resampling.interval(_within(early, final, group, resampling.bootstrap(n)))
    remark = "" if interval else f"n too small for an interval (under {FEWEST})"
    return Signal(metric, share, n, spearman, interval, remark)


def _within(
    early: Float[np.ndarray, " n"],
    final: Float[np.ndarray, " n"],
    group: Float[np.ndarray, " n"],
    weights: Int[np.ndarray, "draws n"],
) -> Float[np.ndarray, " draws"]:
    """Correlation of the ranks within groups, each value taken as often as it weighs.

    NaN where no group of a draw has two values of both.
    """
    sums = np.zeros((3, len(weights)))
    for one in np.unique(group):
        inside = group == one
        own = weights[:, inside]
        a, b = _centred_ranks(early[inside], own), _centred_ranks(final[inside], own)
        sums += [(own * x).sum(axis=1) for x in (a * b, a * a, b * b)]
    both, *squares = sums
    varied = (squares[0] > 0) & (squares[1] > 0)
    found = np.full(len(weights), np.nan)
    return np.divide(both, np.sqrt(squares[0] * squares[1]), out=found, where=varied)


def _centred_ranks(
    values: Float[np.ndarray, " n"], weights: Int[np.ndarray, "draws n"]
) -> Float[np.ndarray, "draws n"]:
    """Mid-ranks of the weighted values, about the middle of each draw's ranks."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    equal = np.add.reduceat(weights[:, order], starts, axis=1)
    upper = np.cumsum(equal, axis=1)
    return (upper - (equal + upper[:, -1:]) / 2)[:, place]


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """Spearman's correlation with the final metric by share of training, one line per metric."""
    known = [one for one in signals(study) if not np.isnan(one.spearman)]
    if not known:
        return []
    figure, (axes,) = style.new(1, 1, (6.4, 3.8))
    ends: list[style.End] = []
    for i, (name, found) in enumerate(groupby(known, key=lambda one: one.metric.name)):
        of = list(found)
        # side by side, or the intervals of metrics would cover each other
        x = np.array([100 * one.share for one in of]) * 1.04**i
        y = np.array([one.spearman for one in of])
        bars = np.array([one.interval or (one.spearman, one.spearman) for one in of])
        colour, dashes = style.COLOURS[i], style.DASHES[i]
        axes.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=4)
        ends.append(style.End(y[-1], name, colour))
        axes.vlines(x, bars[:, 0], bars[:, 1], color=colour, linewidth=1.2, alpha=0.7)
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    axes.set_ylim(top=1.05)
    axes.set_xscale("log")
    ticks = sorted({100 * one.share for one in known})
    axes.set_xticks(ticks, [f"{one:g} %" for one in ticks])
    axes.minorticks_off()
    axes.set_xlabel("share of a trial's steps")
    axes.set_ylabel("Spearman with the final value")
    n = sorted({one.n for one in known})
    counts = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
    axes.set_title(f"early against final metrics ({counts} configurations)", loc="left")
    style.name_ends(axes, ends)
    return [style.save(figure, folder, "early_signals", CAPTION)]
