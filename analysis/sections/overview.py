"""What was asked, what became of the trials, and how the metrics lie."""

from collections import Counter

import numpy as np

from analysis import noise, scales, settings
from analysis.blocks import Block
from analysis.fronts import fronts
from analysis.markdown import MISSING, code, counted, duration, escaped, listed, number, table
from analysis.ranking import picks
from analysis.study import Study
from sae_sweep.records import METRICS, STATUSES, Metric, TrialRecord

MOST_LISTED = 20
OPEN = ("queued", "running")

NOISE_UNKNOWN = (
    "noise unknown: no configuration has two seeds; "
    "differences between single trials are not evidence"
)


def header(study: Study) -> list[Block]:
    """Title, question, and the sweep in one paragraph and a few lines."""
    where = "`sweep.question`" if study.imported is None else "`--question`"
    question = escaped(study.run.question) or f"none was written down ({where})."
    paragraph = " ".join([_counts(study), *_extent(study)])
    lines = [f"# {escaped(study.run.name)}", f"**Question:** {question}", paragraph]
    return [*lines, "\n".join(_in_brief(study))]


def _counts(study: Study) -> str:
    counts = Counter(study.trials["status"])
    parts = [f"{counts[status]:,} {status}" for status in STATUSES if counts[status]]
    total = counted(len(study.trials), "trial")
    if not parts:
        return f"{total}."
    ranked = len(study.ranked)
    verb = "is" if ranked == 1 else "are"
    return f"{total}: {listed(parts)}. {ranked:,} {verb} ranked: done, with a finite fvu below 1."


def _extent(study: Study) -> list[str]:
    found = _activations(study)
    tokens = study.trials["tokens"].dropna()
    if len(tokens):
        low, high = int(tokens.min()), int(tokens.max())
        extent = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        found.append(f"A trial is trained on {extent} tokens, repeats counted.")
    seconds = study.trials["seconds"].dropna()
    if len(seconds):
        devices = Counter(one.device for one in study.records if one.device)
        place = f", on {escaped(listed(sorted(devices)))}" if devices else ""
        found.append(
            f"Training and evaluation took {duration(seconds.sum())} over "
            f"{counted(len(seconds), 'trial')}, {duration(seconds.median())} in the median{place}."
        )
    return found


def _activations(study: Study) -> list[str]:
    """What the SAEs were trained on, where all trials share it."""
    sources = [one.config.get("activations", {}) for one in study.records]
    if not sources or any(one != sources[0] for one in sources):
        return []
    said = sources[0]
    place = {
        "model": "{model}, layer {layer}, over {text}",
        "files": "the files of {files}",
        "synthetic": "a synthetic dictionary",
    }
    kind = next((kind for kind in place if kind in said), None)
    if kind is None or not {"d", "train_tokens", "validation_tokens"} <= said.keys():
        return []
    words = {key: settings.text(value) for key, value in said.items()}
    return [
        f"Activations: {escaped(place[kind].format(**words))}, d = {said['d']:,}, "
        f"{said['train_tokens']:,} training and {said['validation_tokens']:,} validation rows."
    ]


def _in_brief(study: Study) -> list[str]:
    """The recommended trials, the fronts and the noise, a line each."""
    if study.ranked.empty:
        return ["> No trial is ranked: there is nothing to compare."]
    lines = []
    found = picks(study)
    for uid in dict.fromkeys(pick.uid for pick in found):
        first, *others = [pick.title for pick in found if pick.uid == uid]
        titles = "; ".join([first, *(title[0].lower() + title[1:] for title in others)])
        label = study.member(uid).trial.label
        lines.append(f"- **{titles}:** {code(label)}, {', '.join(study.values(uid))}")
    lines += [
        f"- **Pareto front** ({front.name}): {len(front.uids)} of {counted(front.n, 'trial')}"
        for front in fronts(study)
    ]
    floor = noise.floor(study, METRICS["fvu"])
    if floor is None:
        return [*lines, f"- **Noise** unknown: {NOISE_UNKNOWN.partition(': ')[2]}"]
    step = scales.difference(floor.metric, floor.detectable)
    return [
        *lines,
        f"- **Noise:** two single trials are told apart when fvu differs by {step}",
    ]


def status(study: Study) -> list[Block]:
    """Counts, then every trial that ended without a rank, with reason and place."""
    counts = Counter(study.trials["status"])
    rows = [[one, f"{counts[one]:,}"] for one in STATUSES if counts[one]]
    rows.append(["all", f"{len(study.trials):,}"])
    parts = ["## Status", table(["status", "trials"], rows)]
    lost = (~study.trials["ranked"] & ~study.trials["status"].isin(OPEN)).to_numpy()
    if lost.any():
        parts += ["### Ended without a rank", _where(study, lost), _lost(study, lost)]
    return [*parts]


def _where(study: Study, lost: np.ndarray) -> str:
    """How these trials spread over the levels: those with most of them first."""
    if not study.hyperparameters:
        return f"{counted(int(lost.sum()), 'trial')} of {len(lost):,}."
    lines = []
    for one in study.hyperparameters:
        shares = [(one.at(level), level) for level in one.order]
        parts = [
            f"{(lost & here).sum():,} of {here.sum():,} at {escaped(level)}"
            for here, level in shares
        ]
        lines.append(f"- {escaped(one.name)}: {', '.join(parts)}")
    return "By level:\n\n" + "\n".join(lines)


def _lost(study: Study, lost: np.ndarray) -> str:
    """These trials with the reason of each."""
    records = [one for one, is_lost in zip(study.records, lost, strict=True) if is_lost]
    rows = [
        [code(one.label), code(one.uid), one.status, escaped(_reason(one))]
        for one in records[:MOST_LISTED]
    ]
    text = table(["trial", "uid", "status", "reason"], rows, left=4)
    hidden = len(records) - len(rows)
    if hidden:
        text += (
            f"\n\n{counted(hidden, 'more trial')}: see `data/runs.csv`, columns status and error."
        )
    return text


def _reason(record: TrialRecord) -> str:
    if record.error:
        return record.error
    if record.worse_than_mean:
        return f"fvu {number(record.final['fvu'])} is not below 1: no better than the mean"
    if record.status == "done":
        return "its fvu is not finite" if "fvu" in record.final else "it has no fvu"
    return "not started" if record.started is None else "no reason recorded"


def definitions(study: Study) -> list[Block]:
    """The metrics that occur, as the registry defines them."""
    if not study.metrics:
        return []
    better = {"down": "lower", "up": "higher", "none": MISSING}
    known = _definitions(study)
    rows = [
        [one.name, one.unit, better[one.direction], one.scale, escaped(known[one.name])]
        for one in study.metrics
    ]
    sizes = {r.config.get("activations", {}).get("validation_tokens") for r in study.records}
    found = sorted(size for size in sizes if size is not None)
    tokens = f"Validation: {listed([f'{size:,}' for size in found])} tokens. " if found else ""
    note = "Means and correlations are taken on the scale named here."
    if study.imported is not None:
        note += (
            " What a metric is, on which data and at which moment of training it was taken, is as "
            "the tool that wrote the file has it: figures of different tools need not compare."
        )
    header = ["metric", "unit", "better", "scale", "definition"]
    return ["## Metrics", tokens + note, table(header, rows, left=5)]


def _definitions(study: Study) -> dict[str, str]:
    """Each metric as the registry defines it, or as an imported file gave it."""
    if study.imported is not None:
        return study.imported.definitions
    return {one.name: one.definition for one in study.metrics}


def statistics(study: Study) -> list[Block]:
    """How each metric is distributed over the ranked trials."""
    if study.ranked.empty:
        return ["## Summary statistics\n\nNo trial is ranked."]
    rows = [_distribution(study, metric) for metric in study.metrics]
    header = ["metric", "n", "mean", "sd", "median", "min", "max", "geometric mean"]
    note = (
        f"Over the {counted(len(study.ranked), 'ranked trial')} of {len(study.trials):,}; "
        "the geometric mean for metrics of log scale that are positive throughout."
    )
    return ["## Summary statistics", note, table(header, rows)]


def _distribution(study: Study, metric: Metric) -> list[str]:
    values = study.ranked[metric.name].dropna()
    # the sd of equal numbers is rounding noise, not 0
    sd = 0.0 if values.nunique() == 1 and len(values) > 1 else values.std()
    moments = [values.mean(), sd, values.median(), values.min(), values.max()]
    centre = float("nan")
    if metric.scale == "log" and len(values):
        centre = scales.back(metric, study.scaled.loc[values.index, metric.name].mean(skipna=False))
    return [metric.name, f"{len(values):,}", *map(number, moments), number(centre)]
