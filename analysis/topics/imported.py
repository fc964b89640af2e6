"""Records that come from elsewhere: how they were read, and what to know of them."""

from analysis.context import ReportContext
from analysis.foreign.imported import Imported
from analysis.foreign.terms import IGNORE
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, escaped, number, table
from analysis.study.table import Study

MOST_COLUMNS = 20
"""Columns from which the mapping is folded."""
MOST_SCORES = 20


def imported(context: ReportContext) -> list[Block]:
    """The mapping of the file's columns, notes on its rows, and its own score recomputed."""
    study = context.study
    found = study.imported
    if found is None:
        return []
    note = (
        f"This sweep was run elsewhere; the records are the rows of {code(found.source.name)}, as "
        "they stand there; where the file is a selection of runs, such as the best, so is every "
        "figure below. How its columns were read:"
    )
    rows = [
        [
            code(one.theirs),
            MISSING if one.ours == IGNORE else code(one.ours),
            escaped(one.rule),
            f"{one.values:,}",
            f"{one.distinct:,}",
        ]
        for one in found.columns
    ]
    mapping = table(["column", "read as", "because of", "values", "distinct"], rows, left=3)
    if len(rows) > MOST_COLUMNS:
        summary = f"<details><summary>All {len(rows):,} columns</summary>"
        mapping = f"{summary}\n\n{mapping}\n\n</details>"
    return ["## Imported records", note, mapping, *found.notes, *_scores(study, found)]


def _scores(study: Study, found: Imported) -> list[Block]:
    if not found.scores:
        return []
    note = (
        "The published score beside what the rounded metrics of its row allow: the range of the "
        f"sum over all values that round to what is written. At most {MOST_SCORES} rows, those not "
        "reproduced first."
    )
    shown = sorted(found.scores, key=lambda one: one.reproduced)[:MOST_SCORES]
    rows = [
        [
            code(study.member(one.uid).trial.label),
            escaped(one.stated),
            f"{number(one.low)} to {number(one.high)}",
            "yes" if one.reproduced else "no",
        ]
        for one in shown
    ]
    header = ["trial", "stated", "recomputed", "reproduced"]
    return ["### Published score", note, table(header, rows)]
