"""A foreign table as a sweep: records with settings, status and metrics; no store is involved."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.foreign import cells, checkpoints, score, terms
from analysis.foreign.imported import (
    Folded,
    FromNames,
    Imported,
    InactiveTarget,
    NameDisagrees,
    NoStatus,
    NotANumberSetting,
    NotFinite,
    Repeated,
    Skipped,
    Unread,
)
from analysis.foreign.mapping import Column, map_columns
from analysis.foreign.reading import Table, read
from analysis.foreign.rows import SEED_KEYS, Run, is_setting, read_run
from analysis.page.blocks import Claim
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS, TrialRecord, canonical, digest
from sae_sweep.records.names import checked_name
from sae_sweep.records.store import Member, Sweep
from sae_sweep.records.store import Run as SweepRun

COEFFICIENT, TARGET = "sae.aux_coeff", "sae.aux_target"
WIDTH, EXPANSION = "sae.n_latents", "sae.expansion_factor"
DERIVED = {
    "fvu": "1 - explained_variance, which the file has instead of fvu; tools take it differently",
    "explained_variance": "1 - fvu",
    "l0": "l0_fraction x n_latents",
    "l0_fraction": "l0 / n_latents",
}


@dataclass(frozen=True)
class Request:
    """A request to import a file, with the user's mappings."""

    path: Path
    name: str
    question: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Foreign column to our name, or `ignore`."""
    bounds: score.Bounds = field(default_factory=dict)
    """Ends of the metrics of a published score."""


def import_sweep(request: Request) -> tuple[Sweep, Imported]:
    r"""Read a foreign table as a sweep; no row is dropped.

    Raises:
        BadInput: the name, the file, an override or a cell cannot be used.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("mine.csv").write_text("k,fvu,l0\n8,0.4,8\n16,0.3,16\n32,0.2,32\n")
        >>> sweep, imported = import_sweep(Request(Path("mine.csv"), "mine"))
        >>> [trial.final["fvu"] for trial in sweep.trials]
        [0.4, 0.3, 0.2]
    """
    checked_name(request.name, "--name")
    ignored = {theirs for theirs, ours in request.overrides.items() if ours == terms.IGNORE}
    table = read(request.path, ignored)
    columns = map_columns(table, request.overrides)
    if not any(one.ours in terms.FORMS for one in columns):
        raise BadInput(
            f"import {request.path}: no column is a metric that is known; there are "
            f"{', '.join(table.columns)}: name one, e.g. --map COLUMN=fvu, =explained_variance, "
            "=dead_features or =l0"
        )
    found = checkpoints.find(table.rows, columns, request.overrides)
    pairs = zip(table.rows, table.places, strict=True)
    runs = [read_run(row, columns, place) for row, place in pairs]
    every, rows = list(zip(table.rows, runs, strict=True)), len(runs)
    if found is not None:
        runs = [runs[i] for i in found.kept]
        table = table._replace(
            rows=[table.rows[i] for i in found.kept], places=[table.places[i] for i in found.kept]
        )
    axes = _axes(runs)
    inactive = _leave_out_inactive_targets(runs)
    members = _members(table, runs, axes)
    folded = [] if found is None else [Folded(rows, len(runs), found.step, found.id)]
    notes = [
        *folded,
        *_notes(table, columns, runs),
        *([InactiveTarget(inactive)] if inactive else []),
    ]
    scored = _score(columns, runs, members, request.bounds)
    command = _command(request)
    seeds = any(key in run.settings for run in runs for key in SEED_KEYS)
    definitions = _definitions(columns, runs)
    imported = Imported(
        table.source,
        command,
        columns,
        definitions,
        [*notes, *scored[0]],
        scored[1],
        seeds,
        {} if found is None else _curves(every, found, [one.trial.uid for one in members]),
    )
    run = SweepRun(0, request.name, request.question, 0.0, 0.0, {}, command, "", {}, alive=False)
    return Sweep(run, members), imported


def _curves(
    rows: Sequence[tuple[Mapping[str, Any], Run]], found: checkpoints.Checkpoints, uids: list[str]
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The checkpoints of each run by metric, in the order of their steps."""
    if found.step is None:
        return {}
    points: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for of, (row, run) in zip(found.runs, rows, strict=True):
        step = cells.number(row.get(found.step))
        points.setdefault(of, []).append((float(step or 0), run.final))
    curves = {}
    for uid, i in zip(uids, found.kept, strict=True):
        ordered = sorted(points[found.runs[i]], key=lambda point: point[0])
        names = dict.fromkeys(name for _, final in ordered for name in final)
        curves[uid] = {
            name: (
                np.array([step for step, final in ordered if name in final]),
                np.array([final[name] for _, final in ordered if name in final]),
            )
            for name in names
        }
    return curves


def _axes(runs: Sequence[Run]) -> list[str]:
    """The settings that make a run, in the file's order."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    pairs = {(str(run.settings.get(EXPANSION)), str(run.settings.get(WIDTH))) for run in runs}
    # the same axis under two names where each expansion has one width
    if EXPANSION in keys and len({one for one, _ in pairs}) == len(pairs):
        keys = [key for key in keys if key != WIDTH]
    return keys


def _leave_out_inactive_targets(runs: Sequence[Run]) -> int:
    """A target of a loss that is off has no effect: no value, whatever the file's default."""
    changed = 0
    for run in runs:
        if run.settings.get(COEFFICIENT) == 0 and run.settings.get(TARGET) is not None:
            run.settings[TARGET] = None
            changed += 1
    return changed


def _members(table: Table, runs: Sequence[Run], axes: Sequence[str]) -> list[Member]:
    seen: Counter[str] = Counter()
    members = []
    for row, run in zip(table.rows, runs, strict=True):
        # the same row is the same trial wherever it stands; a repetition is one of its own
        content = canonical({key: str(cell) for key, cell in row.items()})
        uid = digest([content, seen[content]])
        seen[content] += 1
        final = {name: value if math.isfinite(value) else None for name, value in run.final.items()}
        config: dict[str, Any] = {}
        for key, value in run.settings.items():
            if value is not None:
                section, _, name = key.partition(".")
                config.setdefault(section, {})[name] = value
        trial = TrialRecord(
            uid,
            run.name or _label(run.settings, axes),
            run.status,
            config,
            final,
            error=run.error,
            seconds=run.seconds,
        )
        members.append(Member({key: run.settings.get(key) for key in axes}, trial))
    return members


def _label(settings: Mapping[str, Any], axes: Sequence[str]) -> str:
    parts = [(key.rpartition(".")[2], settings.get(key)) for key in axes]
    said = [
        f"{name}{value:g}" if isinstance(value, int | float) else f"{name}-{value}"
        for name, value in parts
        if value is not None
    ]
    return "_".join(said) or "run"


def _notes(table: Table, columns: Sequence[Column], runs: Sequence[Run]) -> list[Claim]:
    """Notes on the rows."""
    notes: list[Claim] = []
    if not any(one.ours == "status" for one in columns):
        counts = Counter(run.status for run in runs)
        notes.append(NoStatus(len(runs), counts["failed"], counts["diverged"]))
    if table.skipped:
        notes.append(Skipped(tuple(table.skipped)))
    notes += [
        NotANumberSetting(one.theirs, lost)
        for one in columns
        if is_setting(one) and (lost := sum(_is_nan(row.get(one.theirs)) for row in table.rows))
    ]
    unread = [
        one.theirs
        for one in columns
        if one.rule == "not understood" and (one.distinct > 1 or 0 < one.values < len(runs))
    ]
    if unread:
        notes.append(Unread(tuple(unread)))
    settings = [canonical(run.settings) for run in runs]
    rows = [canonical({key: str(cell) for key, cell in row.items()}) for row in table.rows]
    if same := len(settings) - len(set(settings)):
        notes.append(Repeated(same, len(rows) - len(set(rows))))
    given = {one.ours for one in columns if is_setting(one)}
    told = list(dict.fromkeys(key for run in runs for key in run.told if key not in given))
    if told:
        rows_told = sum(any(key in run.told for key in told) for run in runs)
        notes.append(FromNames(tuple(key.rpartition(".")[2] for key in told), rows_told))
    notes += _disagreements(runs, given)
    for metric in METRICS:
        lost = sum(not math.isfinite(run.final.get(metric, 0.0)) for run in runs)
        if lost:
            notes.append(NotFinite(metric, lost))
    return notes


def _is_nan(cell: Any) -> bool:
    value = cells.number(cell)
    return value is not None and math.isnan(value)


def _disagreements(runs: Sequence[Run], given: set[str]) -> list[Claim]:
    notes: list[Claim] = []
    for key in sorted(given):
        differ = [
            run.name or ""
            for run in runs
            if key in run.told
            and run.settings.get(key) is not None
            and not run.told[key].agrees(run.settings[key])
        ]
        if differ:
            notes.append(NameDisagrees(key.rpartition(".")[2], len(differ), differ[0]))
    return notes


def _definitions(columns: Sequence[Column], runs: Sequence[Run]) -> dict[str, str]:
    """Each metric as the file has it: its column, and how it became ours."""
    found = {
        terms.FORMS[one.ours].metric: terms.FORMS[one.ours].words.format(
            column=f"column {one.theirs}"
        )
        for one in columns
        if one.ours in terms.FORMS
    }
    there = {name for run in runs for name in run.final}
    return found | {name: DERIVED[name] for name in there - set(found)}


def _score(
    columns: Sequence[Column],
    runs: Sequence[Run],
    members: Sequence[Member],
    bounds: score.Bounds,
) -> tuple[list[Claim], list[Any]]:
    column = next((one.theirs for one in columns if one.ours == "score"), None)
    if column is None:
        if bounds:
            raise BadInput(
                f"--bounds {next(iter(bounds))}=...: no column is a score to be checked: name it "
                "with --map COLUMN=score"
            )
        return [], []
    rows = [
        score.Row(member.trial, run.score, run.digits)
        for member, run in zip(members, runs, strict=True)
        if run.score is not None
    ]
    return score.check(column, rows, bounds)


def _command(request: Request) -> str:
    """The command without the folders on this machine."""
    words = ["python", "-m", "analysis", "import", request.path.resolve().name]
    words += ["--name", request.name]
    for theirs, ours in request.overrides.items():
        words += ["--map", f"{theirs}={ours}"]
    for metric, (low, high) in request.bounds.items():
        words += ["--bounds", f"{metric}={low:.12g}:{high:.12g}"]
    return shlex.join(words)
