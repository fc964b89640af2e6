"""Rows that are checkpoints of one run; the last one counts as the run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.foreign import cells, terms
from analysis.foreign.mapping import Column

STEPS = re.compile(
    r"(global_|train_|training_|total_|n_|num_|checkpoint_)?(step|steps|iteration|iterations|epoch|"
    r"epochs|checkpoint|tokens|tokens_seen)"
)


class Checkpoints(NamedTuple):
    """The rows that stand for runs, and how they were found."""

    kept: list[int]
    """The last row of each run, in the file's order."""
    runs: list[str]
    """The run of each row."""
    step: str | None
    """The column that orders the rows of a run; None where only their order in the file does."""
    id: str | None
    """The column that names the run; None where equal settings do."""


def find(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], given: Mapping[str, str]
) -> Checkpoints | None:
    """Find rows that are checkpoints of one run; None where every row is a run of its own.

    Rows of one `id` are one run. Without ids, rows are one run where they differ in the step alone
    among their settings, in most groups of equal settings; a step column that the user has named
    a setting (`--map steps=train.steps`) is one.

    Args:
        rows: cells by foreign name.
        columns: what each column is.
        given: the user's own mapping.
    """
    step = next((one.theirs for one in columns if _is_step(one, rows, given)), None)
    for one in columns:
        if one.ours == "id" and one.values == len(rows) and one.distinct < len(rows):
            runs = [str(row[one.theirs]) for row in rows]
            return Checkpoints(_last(runs, rows, step), runs, step, one.theirs)
    if step is None:
        return None
    settings = [
        one.theirs
        for one in columns
        if one.theirs != step
        and (one.ours.partition(".")[0] in terms.SECTIONS or one.ours == "name")
    ]
    runs = [str([cells.setting(row.get(name)) for name in settings]) for row in rows]
    steps: dict[str, set[str]] = {}
    for run, row in zip(runs, rows, strict=True):
        steps.setdefault(run, set()).add(str(row.get(step)))
    several = sum(len(one) > 1 for one in steps.values())
    if 2 * several <= len(steps):
        return None
    return Checkpoints(_last(runs, rows, step), runs, step, None)


def _is_step(one: Column, rows: Sequence[Mapping[str, Any]], given: Mapping[str, str]) -> bool:
    name = re.sub(r"[^a-z0-9]+", "_", re.split(r"[./]", one.theirs)[-1].lower()).strip("_")
    is_setting = given.get(one.theirs, terms.IGNORE) != terms.IGNORE or "." in one.theirs
    return (
        not is_setting
        and STEPS.fullmatch(name) is not None
        and one.distinct > 1
        and all(cells.number(row.get(one.theirs)) is not None for row in rows)
    )


def _last(runs: Sequence[str], rows: Sequence[Mapping[str, Any]], step: str | None) -> list[int]:
    """The row of the largest step of each run, the last of equals."""
    found: dict[str, int] = {}
    for i, run in enumerate(runs):
        at = [float(cells.number(rows[j].get(step or "")) or 0) for j in (found.get(run, i), i)]
        if step is None or at[1] >= at[0]:
            found[run] = i
    return sorted(found.values())
