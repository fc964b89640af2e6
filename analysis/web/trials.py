"""What the page's table and charts show: every trial, the front, the course of training."""

import math
from itertools import repeat
from typing import Any

import numpy as np

from analysis.findings.fronts import fronts
from analysis.findings.ranking import leaders
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Curve, Study
from sae_sweep.records import METRICS

CURVES = ("fvu", "l0", "dead_features", "loss")
MOST_CURVES = 300
"""Trials whose course is inside the page: the recommended ones, the front, then the others."""
MOST_POINTS = 100
"""Of one curve; of longer ones every so-manyth point is kept."""


def trials(study: Study) -> dict[str, Any]:
    """Columns, rows, front and curves as plain values without NaN."""
    columns = [*_hyperparameters(study), *_metrics(study)]
    names = {one["name"] for one in columns}
    found = [one for one in fronts(study) if {part.name for part in one.objectives} <= names]
    drawn = _with_curves(study)
    return {
        "columns": columns,
        "rows": _rows(study),
        "front": {
            "objectives": [one.name for one in found[0].objectives] if found else [],
            "uids": found[0].uids if found else [],
        },
        "leaders": leaders(study),
        "curves": {name: _curves(study, drawn, name) for name in CURVES},
        "with_curves": len(drawn),
    }


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
    return value if isinstance(value, int | float | str | None) else str(value)


def _with_curves(study: Study) -> list[str]:
    return list(dict.fromkeys([*leaders(study), *map(str, study.trials.index)]))[:MOST_CURVES]


def _curves(study: Study, uids: list[str], name: str) -> dict[str, list[list[float | None]]]:
    assert name in METRICS
    return {uid: _thinned(curve) for uid, curve in study.history(uids, name).items()}


def _thinned(curve: Curve) -> list[list[float | None]]:
    """Steps and values, the last point among them."""
    steps, values = curve
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).round())
    chosen = kept.astype(int)
    return [[int(steps[i]) for i in chosen], [_plain(float(values[i])) for i in chosen]]
