"""Trials that stand first: by score, on the front, recommended."""

import pandas as pd

from analysis import noise, scales
from analysis.blocks import Block
from analysis.fronts import Front, fronts
from analysis.markdown import MISSING, code, counted, escaped, number, table
from analysis.ranking import BALANCED, balanced, lowest, picks
from analysis.sections.pictures import picture
from analysis.settings import text
from analysis.study import Study
from sae_sweep.records import METRICS, Metric

TOP = 10
MOST_ON_FRONT = 30
MOST_SETTINGS = 6
"""Hyperparameters beside a trial's name; the others are in runs.csv."""


def top_tables(study: Study) -> list[Block]:
    """The first ten by dead_features, by fvu, and by both."""
    parts = [
        f"### {title}\n\n{_ranks(study, rows, score)}"
        for title, rows, score in (
            ("Lowest dead_features", lowest(study, "dead_features"), "dead_features"),
            ("Lowest fvu", lowest(study, "fvu"), "fvu"),
            (f"Balanced: lowest {BALANCED}", balanced(study), "score"),
        )
        if len(rows)
    ]
    return ["## Top trials", *parts] if parts else []


def _ranks(study: Study, rows: pd.DataFrame, score: str) -> str:
    extra = {}
    if score not in METRICS:
        extra["mean rank"] = {str(uid): number(value) for uid, value in rows["score"].items()}
    elif study.has_seeds:
        extra[f"{score} over its seeds"] = _over_seeds(study, rows, METRICS[score])
    head = f"The first {min(TOP, len(rows))} of {counted(len(rows), 'ranked trial')}."
    return f"{head}{_tied(study, rows, score)}\n\n{_trials(study, rows.head(TOP), extra)}"


def _over_seeds(study: Study, rows: pd.DataFrame, metric: Metric) -> dict[str, str]:
    """Each trial's configuration: mean over its ranked seeds on the metric's scale, with n."""
    groups = study.scaled.loc[rows.index, metric.name].groupby(rows["configuration"])
    means, counts = groups.mean(), groups.count()
    return {
        str(uid): f"{number(scales.back(metric, means.loc[one]))} (n={counts.loc[one]})"
        for uid, one in rows["configuration"].items()
    }


def _tied(study: Study, rows: pd.DataFrame, score: str) -> str:
    """How many share the first's value, or cannot be told from it by the noise."""
    equal = int((rows[score] == rows[score].iloc[0]).sum())
    said = f" {counted(equal, 'trial')} share the first value." if equal > 1 else ""
    floor = noise.floor(study, METRICS[score]) if score in METRICS else None
    if floor is None:
        return said
    scaled = study.scaled.loc[rows.index, score]
    near = rows[(scaled - scaled.iloc[0] < floor.detectable)]
    others = near["configuration"].nunique() - 1
    near_by = f" {counted(others, 'other configuration')} within the noise floor of the first."
    return said + near_by


def _trials(study: Study, rows: pd.DataFrame, extra: dict[str, dict[str, str]]) -> str:
    """Trials as a numbered table: name, settings, main metrics, further columns."""
    shown = study.hyperparameters[:MOST_SETTINGS]
    place = {uid: i for i, uid in enumerate(study.trials.index)}
    header = ["#", "trial", "uid", *(escaped(one.name) for one in shown)]
    header += [*(one.name for one in study.main_metrics), *extra]
    lines = []
    for i, uid in enumerate(map(str, rows.index)):
        settings = [escaped(text(one.given[place[uid]])) for one in shown]
        values = [number(study.value(uid, one.name)) for one in study.main_metrics]
        more = [column[uid] for column in extra.values()]
        lines.append(
            [str(i + 1), code(study.member(uid).trial.label), code(uid), *settings, *values, *more]
        )
    return table(header, lines, left=3)


def pareto_front(study: Study) -> list[Block]:
    """The fronts with their objectives, and the trials on them."""
    found = fronts(study)
    if not found:
        return []
    note = (
        "A trial is on a front when no other ranked trial is as good in every objective and better "
        "in one. Noise is not allowed for."
    )
    parts = ["## Pareto front", note]
    for i, front in enumerate(found):
        parts += [f"### {front.name}", _front(study, front)]
        parts += picture(study, "pareto_frontier", f"Pareto front: {front.name}") if i == 0 else []
    return [*parts]


def _front(study: Study, front: Front) -> str:
    main = {one.name for one in study.main_metrics}
    shown = {one.name for one in study.hyperparameters[:MOST_SETTINGS]}
    rows = study.trials.loc[front.uids[:MOST_ON_FRONT]]
    extra = {
        one.name: {uid: number(study.value(uid, one.name)) for uid in front.uids}
        for one in front.objectives
        if one.name not in main | shown
    }
    verb = "is" if len(front.uids) == 1 else "are"
    head = f"{len(front.uids)} of {counted(front.n, 'trial')} {verb} on the front."
    if len(front.uids) > MOST_ON_FRONT:
        head += f" The first {MOST_ON_FRONT}; all in `data/pareto_optimal_configs.json`."
    return f"{head}\n\n{_trials(study, rows, extra)}"


def recommended(study: Study) -> list[Block]:
    """Whole existing trials to start from."""
    found = picks(study)
    if not found:
        return []
    rows: list[list[str]] = []
    titles: dict[str, str] = {}
    for pick in found:
        trial = study.member(pick.uid).trial
        same = f"same trial as “{titles[pick.uid]}”" if pick.uid in titles else ""
        titles.setdefault(pick.uid, pick.title)
        folder = code(f"../trials/{trial.folder}/") if study.imported is None else MISSING
        values = [number(study.value(pick.uid, one.name)) for one in study.main_metrics]
        rows.append(
            [
                pick.title,
                code(trial.label),
                code(pick.uid),
                pick.undominated_in,
                folder,
                same,
                *values,
            ]
        )
    header = ["", "trial", "uid", "unbeaten in", "folder", "note"]
    note = (
        "Each is one trial of this sweep, with all its settings, that no other ranked trial beats "
        "in the objectives named; none is put together from the levels of several."
    )
    names = [one.name for one in study.main_metrics]
    return ["## Recommended trials", note, table([*header, *names], rows, left=6)]
