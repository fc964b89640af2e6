"""Which foreign column is which setting or metric: guessed, overridden, shown."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.foreign import cells, terms
from analysis.foreign.reading import Table
from sae_sweep.errors import BadInput

SAID_ONCE = frozenset({"seconds"})
"""Of columns that are read as this, the first counts: the others measure the same thing."""


class Column(NamedTuple):
    """A foreign column and its mapping."""

    theirs: str
    ours: str
    """A setting, a form of a metric, a part of the record, or `ignore`."""
    rule: str
    """Why."""
    values: int
    """Rows with something in it."""
    distinct: int

    @property
    def field(self) -> str:
        """What it fills: forms of one metric fill the same."""
        return terms.FORMS[self.ours].metric if self.ours in terms.FORMS else self.ours


def map_columns(table: Table, overrides: Mapping[str, str]) -> list[Column]:
    """Map every column; overrides come before guesses.

    Raises:
        BadInput: an override names what is not there, or two columns are read as the same thing.
    """
    for theirs in overrides:
        if theirs not in table.columns:
            raise BadInput(
                f"--map {theirs}={overrides[theirs]}: there is no column {theirs}; "
                f"{_nearest(theirs, table.columns)}"
            )
    given = {theirs: _target(theirs, ours) for theirs, ours in overrides.items()}
    columns = [_column(table, name, given) for name in table.columns]
    return _without_doubles(table, columns, set(given))


def _column(table: Table, name: str, given: Mapping[str, str]) -> Column:
    present = [str(row[name]) for row in table.rows if not cells.is_missing(row.get(name))]
    counts = len(present), len(set(present))
    if name in given:
        return Column(name, given[name], "--map", *counts)
    if not present:
        return Column(name, terms.IGNORE, "empty", *counts)
    if _numbers_rows(table, name):
        return Column(name, terms.IGNORE, "numbers the rows", *counts)
    found = terms.guess(name)
    if found is None:
        return Column(name, terms.IGNORE, "not understood", *counts)
    return Column(name, *found, *counts)


def _numbers_rows(table: Table, name: str) -> bool:
    """Whether a column is a table's index, as pandas writes it without a name."""
    nameless = re.fullmatch(r"\(column \d+\)|Unnamed: \d+|index|__index_level_\d+__", name)
    if not nameless:
        return False
    values = [cells.setting(row.get(name)) for row in table.rows]
    return len(set(map(str, values))) == len(values) and all(type(one) is int for one in values)


def _target(theirs: str, ours: str) -> str:
    """An override's right side: our name, or one of the synonyms of it."""
    if ours == terms.IGNORE or re.fullmatch(rf"({'|'.join(terms.SECTIONS)})\.\w+", ours):
        return ours
    if ours in terms.KNOWN:
        return terms.KNOWN[ours]
    known = [terms.IGNORE, *terms.KNOWN, *terms.KNOWN.values()]
    raise BadInput(
        f"--map {theirs}={ours}: {ours} is no metric or setting of ours; "
        f"{_nearest(ours, known)}, or name a setting as sae.NAME or train.NAME, or {terms.IGNORE}"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close or sorted(set(known))[:20])}?"


def _without_doubles(table: Table, columns: list[Column], given: set[str]) -> list[Column]:
    """Leave out a column that says again what another says; refuse one that says otherwise."""
    chosen: dict[str, Column] = {}
    both: set[str] = set()
    for column in sorted(columns, key=lambda one: one.theirs not in given):
        if column.ours == terms.IGNORE:
            continue
        first = chosen.setdefault(column.field, column)
        if first is column or _repeats(table, first, column):
            continue
        if first.theirs in given and column.theirs not in given:
            continue
        if column.field in SAID_ONCE:
            continue
        if first.ours != column.ours and not {first.theirs, column.theirs} & given:
            both.add(column.theirs)  # two forms of one metric: the rows must agree
            continue
        raise BadInput(
            f"columns {first.theirs} and {column.theirs} are both read as {column.field}: leave "
            f"one out with --map '{column.theirs}={terms.IGNORE}' or --map '{first.theirs}="
            f"{terms.IGNORE}'"
        )
    return [
        one
        if one.ours == terms.IGNORE or chosen[one.field] is one or one.theirs in both
        else one._replace(ours=terms.IGNORE, rule=f"{chosen[one.field].theirs} says it")
        for one in columns
    ]


def _repeats(table: Table, first: Column, other: Column) -> bool:
    """Whether two columns of one form hold the same values."""

    def values(column: Column) -> list[Any]:
        return [cells.setting(row.get(column.theirs)) for row in table.rows]

    return first.ours == other.ours and values(first) == values(other)
