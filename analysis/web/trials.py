"""What the page's cards, table and charts show: every trial, the front, the training curves."""

import math
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from analysis.findings import noise
from analysis.findings.fronts import fronts, standings
from analysis.findings.ranking import leaders
from analysis.page.markdown import counted, number
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Curve, Study
from analysis.topics.pareto import placed
from analysis.topics.recommended import recommendations
from sae_sweep.records import METRICS, Metric

CURVES = ("fvu", "l0", "dead_features", "loss")
MOST_CURVES = 300
"""Trials whose curves are inside the page: the recommended ones, the front, then the others."""
MOST_POINTS = 100
"""Of one curve; of longer ones every so-manyth point is kept."""


class Card(NamedTuple):
    """A recommended configuration, ready to print."""

    title: str
    criteria: str
    label: str
    uid: str
    settings: list[tuple[str, str]]
    """Those that vary."""
    values: list[tuple[str, str]]
    """The main metrics, means over the seeds."""
    note: str
    """Seeds, ties and failures."""


def cards(study: Study) -> list[Card]:
    """The recommended configurations, each once."""
    found = []
    for one in recommendations(study):
        row = list(study.trials.index).index(one.uid)
        notes = [counted(one.seeds, "seed")]
        if one.tied:
            notes.append(f"tied with {counted(one.tied, 'other')} in {one.tied_in}")
        if one.lost:
            notes.append(f"{counted(one.lost, 'failed run')}")
        found.append(
            Card(
                " · ".join(title for title, _ in one.uses),
                "; ".join(criterion for _, criterion in one.uses),
                one.label,
                one.uid,
                [(each.name, _setting(each.given[row])) for each in study.hyperparameters],
                [(name, shown(METRICS[name], value)) for name, value in one.values],
                ", ".join(notes),
            )
        )
    return found


def shown(metric: Metric, value: float | None) -> str:
    """A metric's value as text: percent where it is a share."""
    if metric.unit == "share" and value is not None:
        return f"{number(100 * value, 3)} %"
    return number(value)


def _setting(value: object) -> str:
    if value is None:
        return "inactive"
    return number(value) if isinstance(value, float) else str(value)


def trials(study: Study) -> dict[str, Any]:
    """Columns, rows, front and curves as plain values without NaN."""
    columns = [*_hyperparameters(study), *_metrics(study)]
    drawn = _with_curves(study)
    return {
        "columns": columns,
        "rows": _rows(study),
        "front": _front(study, {one["name"] for one in columns}),
        "leaders": leaders(study),
        "curves": {name: _curves(study, drawn, name) for name in CURVES},
        "with_curves": len(drawn),
    }


def _front(study: Study, known: set[str]) -> dict[str, Any]:
    """The first front: a point per configuration, the noise above it, and what is not ranked."""
    found = [one for one in fronts(study) if {part.name for part in one.objectives} <= known]
    if not found or len(found[0].objectives) < 2:
        nothing = ("objectives", "uids", "points", "band", "lost", "references")
        return {name: [] for name in nothing}
    front = found[0]
    up, across = front.objectives[:2]
    stands, rows = standings(study, front), study.configurations
    members = study.ranked.groupby("configuration").groups
    names = dict.fromkeys([up.name, across.name, *(one.name for one in study.main_metrics)])
    points = [
        {
            "uid": uid,
            "members": [str(one) for one in members[rows["configuration"][uid]]],
            "means": {name: _plain(float(rows[name][uid])) for name in names},
            "standing": stands[uid],
        }
        for uid in map(str, stands.index)
    ]
    return {
        "objectives": [one.name for one in front.objectives],
        "uids": front.uids,
        "points": points,
        "band": _band(study, front.uids, up),
        "lost": _lost(study, across.name),
        "references": _references(study, up.name, across.name),
    }


def _band(study: Study, uids: list[str], metric: Metric) -> list[float]:
    """How far above the front's members a value is not told apart from theirs."""
    floor = noise.floor(study, metric)
    if floor is None or metric.scale != "log":
        return []
    rows = study.configurations.loc[uids]
    seeds = rows["seeds"].to_numpy()
    upper: list[float] = (rows[metric.name] * 10.0 ** floor.between(seeds, seeds)).tolist()
    return upper


def _lost(study: Study, across: str) -> list[dict[str, Any]]:
    """Trials that diverged or have fvu >= 1, at their l0 or else at their k."""
    rows = study.trials[study.where("diverged") | study.worse_than_mean]
    if across not in rows:
        return []
    x = rows[across].fillna(rows["k"]) if across == "l0" else rows[across]
    return [{"uid": str(uid), "across": float(at)} for uid, at in x.dropna().items()]


def _references(study: Study, up: str, across: str) -> list[dict[str, Any]]:
    """What was trained elsewhere: beside the front, never on it."""
    return [
        {"name": one.name, "layout": one.layout, up: one.value(up), across: one.value(across)}
        for one in placed(study, up, across)
    ]


def _hyperparameters(study: Study) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "kind": one.kind, "log": one.is_log, "levels": _levels(one)}
        for one in study.hyperparameters
    ]


def _levels(one: Hyperparameter) -> list[str]:
    return one.order if one.kind == "categorical" else []


def _metrics(study: Study) -> list[dict[str, Any]]:
    main = {one.name for one in study.main_metrics}
    return [
        {
            "name": one.name,
            "kind": "metric",
            "log": one.scale == "log",
            "unit": one.unit,
            "better": {"down": "lower", "up": "higher", "none": ""}[one.direction],
            "definition": one.definition,
            "main": one.name in main,
        }
        for one in study.metrics
    ]


def _rows(study: Study) -> list[dict[str, Any]]:
    columns = [one.given for one in study.hyperparameters]
    columns += [study.trials[one.name].tolist() for one in study.metrics]
    values = zip(*columns, strict=True) if columns else repeat(())
    ranked = study.trials["ranked"].tolist()
    return [
        {
            "uid": record.uid,
            "label": record.label,
            "status": record.status,
            "ranked": counted,
            "values": [_plain(value) for value in own],
        }
        for record, counted, own in zip(study.records, ranked, values, strict=False)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    is_plain = isinstance(value, int | float | str | None) and not isinstance(value, bool)
    return value if is_plain else str(value)


def _with_curves(study: Study) -> list[str]:
    return list(dict.fromkeys([*leaders(study), *map(str, study.trials.index)]))[:MOST_CURVES]


def _curves(study: Study, uids: list[str], name: str) -> dict[str, list[list[float | None]]]:
    assert name in METRICS
    return {uid: thinned(curve) for uid, curve in study.history(uids, name).items()}


def thinned(curve: Curve) -> list[list[float | None]]:
    """Steps and values, the last point among them."""
    steps, values = curve
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).round())
    chosen = kept.astype(int)
    return [[int(steps[i]) for i in chosen], [_plain(float(values[i])) for i in chosen]]
