"""What lies where, and what it takes to come to the same report."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from analysis.blocks import Block
from analysis.effects import RESAMPLES
from analysis.foreign.imported import Imported
from analysis.markdown import code, escaped, listed, moment, table
from analysis.settings import flattened, text
from analysis.study import Study
from sae_sweep.records import TrialRecord

REPORT_VERSION = 2
"""Raised when the same records would make another report."""

FIGURES = {
    "pareto_frontier": "the first Pareto front, with the trials that it beats",
    "heatmap": "medians over sparsity and width",
    "effects": "every trial over each hyperparameter",
    "curves": "the course of training",
}
DATA = {
    "runs.csv": "a row a trial: settings, status, final metrics, error",
    "claims.json": "every sentence of this page about the sweep, with the figures that it tells",
    "grid_metrics.json": "the same figures with the records' digest",
    "pareto_optimal_configs.json": "the fronts: objectives, trials, settings",
}
NORMALISATION = (
    "activations are centred on the training mean and scaled so that E‖x‖ = √d; "
    "metrics are of the normalised activations"
)
L1_REDUCTION = "; l1_alpha weighs the batch mean of a sum over latents"


def files(study: Study) -> list[Block]:
    """Every file beside the report, and the trials' folders."""
    rows = [["`report.md`", "this page"]]
    for name in sorted(study.figures):
        kind = name if name in FIGURES else name.partition("_")[0]
        rows.append([code(f"figures/{name}.png"), FIGURES[kind]])
    rows += [[code(f"data/{name}"), text] for name, text in DATA.items()]
    if study.imported is None:
        weights = study.run.config.get("store", {}).get("weights", "all")
        rows.append(
            [
                "`../trials/<label>-<uid>/`",
                "a done trial's weights, `config.json` and `latents.parquet` "
                f"(weights kept: `store.weights={weights}`)",
            ]
        )
    return ["## Files", table(["file", "what it is"], rows, left=2)]


def reproducibility(study: Study) -> list[Block]:
    """Run, code, seeds, devices, activations, and the digest of the records."""
    parts = ["## Reproducibility", *(f"> **{line}**" for line in _mixtures(study))]
    facts = _facts(study) if study.imported is None else _imported(study, study.imported)
    return [*parts, table(["", ""], [*facts, *_made(study)], left=2), *_shared(study)]


def _facts(study: Study) -> list[list[str]]:
    run = study.run
    times = [run.started, *(r.finished for r in study.records if r.finished is not None)]
    normalisation = NORMALISATION
    if any(one.config.get("sae", {}).get("kind") == "l1" for one in study.records):
        normalisation += L1_REDUCTION
    seeds = sorted(set(study.seeds))
    fingerprints = _distinct(
        study, lambda one: one.config.get("activations", {}).get("fingerprint")
    )
    facts = {
        "run": str(run.id),
        "command": code(re.sub(r"store\.url=\S+", "store.url=...", run.command)),
        "started": moment(run.started),
        "last record": moment(max(times)),
        "git": code(run.git) if run.git else "not recorded",
        "versions": escaped(_pairs(run.versions)) or "not recorded",
        "seeds (weights, data order)": listed([f"({a}, {b})" for a, b in seeds[:10]])
        + (f" and {len(seeds) - 10} more" if len(seeds) > 10 else ""),
        "devices": escaped(", ".join(_distinct(study, _device))) or "not recorded",
        "activations": ", ".join(code(one) for one in fingerprints) or "not recorded",
        "normalisation": normalisation,
        "evaluation": "final metrics over the whole validation split, at the end of training",
    }
    return [[name, text] for name, text in facts.items()]


def _imported(study: Study, source: Imported) -> list[list[str]]:
    """Of records from elsewhere only what the file says is known."""
    return [
        ["imported from", code(source.source.name)],
        ["sha256", code(source.source.sha256)],
        ["rows", f"{len(study.trials):,}, each a trial"],
        ["command", code(source.command)],
        ["seeds", "as in the file" if source.seeds else "not in the file"],
        ["code, devices, normalisation, evaluation", "not in the file, or not read from it"],
    ]


def _made(study: Study) -> list[list[str]]:
    """What this report adds."""
    return [
        ["bootstrap", f"{RESAMPLES} draws, seed 0"],
        ["records", code(study.digest)],
        ["report version", str(REPORT_VERSION)],
    ]


def _mixtures(study: Study) -> Iterator[str]:
    """What the trials do not share, though it may move results."""
    read = {
        "devices or threads": _device,
        "versions of the code": lambda one: one.git,
        "versions of libraries": lambda one: _pairs(one.versions) or None,
        "activations": lambda one: one.config.get("activations", {}).get("fingerprint"),
    }
    for what, of in read.items():
        found = _distinct(study, of)
        if len(found) > 1:
            parts = [f"{escaped(name)} ({n:,})" for name, n in found.items()]
            yield f"Trials mix {what}: {'; '.join(parts)}. Compare across them with care."


def _distinct(study: Study, of: Any) -> dict[str, int]:
    found = Counter(str(value) for one in study.records if (value := of(one)) is not None)
    return dict(sorted(found.items()))


def _device(record: TrialRecord) -> str | None:
    if record.device is None:
        return None
    threads = "" if record.threads is None else f", {record.threads} threads"
    return record.device + threads.replace(
        "1 threads", "1 thread" if record.threads == 1 else "1 threads"
    )


def _pairs(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _shared(study: Study) -> list[str]:
    """The settings that are the same in every trial, folded away."""
    flat = [dict(flattened(record.config)) for record in study.records]
    if not flat:
        return []
    rows = [
        [code(key), escaped(_shown(value))]
        for key, value in flat[0].items()
        if all(key in other and other[key] == value for other in flat)
    ]
    summary = f"<details><summary>Settings that all trials share ({len(rows)})</summary>"
    return [summary, table(["setting", "value"], rows, left=2), "</details>"] if rows else []


def _shown(value: object) -> str:
    # a report is shared: it names a local file or folder, not where somebody keeps it
    if isinstance(value, str) and PurePath(value).is_absolute():
        return f".../{PurePath(value).name}"
    return text(value)
