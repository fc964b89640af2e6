"""The report's data files, from which its tables are made."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from analysis.context import REPORT_VERSION, ReportContext
from analysis.page.blocks import Blocks, record
from analysis.study.table import Study, load
from sae_sweep.errors import BadInput
from sae_sweep.records.store import Member, Sweep

RESOLVED = (
    "activations.d",
    "activations.fingerprint",
    "sae.kind",
    "sae.n_latents",
    "sae.k",
    "train.lr",
    "train.steps",
    "train.batch_size",
    "train.seed_init",
    "train.seed_data",
)
"""Settings that every row carries, varied or not."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet would run (OWASP, CSV injection)."""


def runs(study: Study) -> pd.DataFrame:
    r"""One row per trial: uid, label, status, settings by dotted key, final metrics, error.

    Example:
        >>> from pathlib import Path
        >>> from analysis.foreign import Request, import_sweep
        >>> _ = Path("mine.csv").write_text("k,fvu,l0\n8,0.4,8\n16,0.3,16\n32,0.2,32\n")
        >>> sweep, _ = import_sweep(Request(Path("mine.csv"), "mine"))
        >>> table = runs(load(sweep))
        >>> table["sae.k"].tolist(), table["fvu"].tolist()
        ([8, 16, 32], [0.4, 0.3, 0.2])
    """
    axes = dict.fromkeys(key for member in study.members for key in member.assignment)
    settings = dict.fromkeys([*axes, *RESOLVED])
    rows = []
    for member, ranked in zip(study.members, study.trials["ranked"].tolist(), strict=True):
        trial = member.trial
        row: dict[str, Any] = {"uid": trial.uid, "label": trial.label, "status": trial.status}
        row["ranked"] = ranked
        row["worse_than_mean"] = trial.worse_than_mean
        for key in settings:
            row[key] = member.assignment.get(key, _recorded(trial.config, key))
        row |= {metric.name: trial.final.get(metric.name) for metric in study.metrics}
        row["always_on_ids"] = " ".join(map(str, trial.always_on_ids))
        row |= {"seconds": trial.seconds, "device": trial.device, "error": trial.error}
        rows.append(row)
    return pd.DataFrame(rows)


def _recorded(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def export(sweep: Sweep, kind: str, to: Path | None) -> None:
    """Write the trials of a sweep as csv or parquet.

    Raises:
        BadInput: parquet without a file, or a file in a folder that does not exist.
    """
    if to is None and kind == "parquet":
        raise BadInput("--format=parquet is not text: name a file with --to FILE")
    if to is not None and not to.parent.is_dir():
        raise BadInput(f"--to={to} lies in a folder that does not exist: make it, or name another")
    table = runs(load(sweep))
    if kind == "parquet":
        # a column of parquet has one type; axes may mix numbers, text and nothing
        mixed = [name for name in table if len(set(map(type, table[name].dropna()))) > 1]
        table.astype(dict.fromkeys(mixed, "string")).to_parquet(to, index=False)
    else:
        _write_csv(table, to if to is not None else sys.stdout)


def _write_csv(table: pd.DataFrame, to: Path | TextIO) -> None:
    """Write a table whose texts no spreadsheet runs as formulas."""
    table.map(_as_text).to_csv(to, index=False, lineterminator="\n")


def _as_text(value: Any) -> Any:
    """Quote a text that a spreadsheet would take for a formula; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write(context: ReportContext, sections: Sequence[Blocks], folder: Path) -> None:
    """Write runs.csv, claims.json, grid_metrics.json and pareto_optimal_configs.json."""
    study = context.study
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(runs(study), folder / "runs.csv")
    claims = [
        {"section": str(blocks[0]).lstrip("# "), **record(block)}
        for blocks in sections
        for block in blocks
        if not isinstance(block, str)
    ]
    (folder / "claims.json").write_text(_json({"claims": claims}))
    ranked = study.trials["ranked"].tolist()
    entries = [_entry(one, known) for one, known in zip(study.members, ranked, strict=True)]
    by_uid = {entry["uid"]: entry for entry in entries}
    metrics = {
        "sweep": study.run.name,
        "question": study.run.question,
        "digest": study.digest,
        "report_version": REPORT_VERSION,
        "runs": entries,
    }
    (folder / "grid_metrics.json").write_text(_json(metrics))
    found = [
        {
            "objectives": [{"metric": o.name, "direction": o.direction} for o in front.objectives],
            "trials": front.n,
            "members": [by_uid[uid] for uid in front.uids],
        }
        for front in context.fronts
    ]
    (folder / "pareto_optimal_configs.json").write_text(_json({"fronts": found}))


def _entry(member: Member, ranked: bool) -> dict[str, Any]:  # noqa: FBT001
    trial = member.trial
    return {
        "uid": trial.uid,
        "label": trial.label,
        "status": trial.status,
        "ranked": ranked,
        "settings": member.assignment,
        "metrics": trial.final,
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
