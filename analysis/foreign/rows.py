"""One foreign row as one of our records."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from analysis.foreign import cells, names, terms
from analysis.foreign.mapping import Column
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS, Status

SEED_KEYS = ("train.seed_init", "train.seed_data")
TOLERANCE = 1e-6
"""Above 1 or below 0 by rounding alone."""


class Run(NamedTuple):
    """A row, read."""

    name: str | None
    status: Status
    error: str | None
    seconds: float | None
    settings: dict[str, Any]
    """By dotted key; None where the row has none."""
    told: dict[str, names.Told]
    """Settings read from its name."""
    final: dict[str, float]
    """By metric; NaN and infinities included."""
    digits: dict[str, float]
    """Half a unit of each metric's last written digit."""
    score: Any
    """A published score as written; None where there is none."""


def read_run(row: Mapping[str, Any], columns: Sequence[Column], place: str) -> Run:
    """Turn a row's cells into settings, metrics and the rest.

    Args:
        row: cells by foreign name.
        columns: what each is.
        place: the row in words, for messages.

    Raises:
        BadInput: a metric, status or score is not what its column says.
    """
    record = {one.ours: row.get(one.theirs) for one in columns if one.ours in terms.RECORD}
    name = next((str(record[key]) for key in ("name", "id") if _has(record, key)), None)
    settings = {one.ours: _setting(row, one, place) for one in columns if is_setting(one)}
    told = names.parse(name) if name else {}
    for key, one in told.items():
        settings.setdefault(key, cells.setting(one.text))
    if "train.seed" in settings:
        seed = settings.pop("train.seed")
        settings = dict.fromkeys(SEED_KEYS, seed) | settings
    _complete_width(settings)
    final, digits = _metrics(row, columns, settings.get("sae.n_latents"), place)
    theirs = {one.ours: one.theirs for one in columns}
    status, error = _status(record.get("status"), theirs.get("status", ""), place)
    if _has(record, "error"):
        error = str(record["error"])
    seconds = cells.seconds(record.get("seconds"))
    if "status" not in theirs or (status == "done" and final):
        status, error = _told_by_metrics(final, error)
    score = record.get("score") if _has(record, "score") else None
    if score is not None and not math.isfinite(_number(score, theirs["score"], place)):
        score = None
    return Run(name, status, error, seconds, settings, told, final, digits, score)


def is_setting(column: Column) -> bool:
    """Whether a column is one of the settings."""
    return column.ours.partition(".")[0] in terms.SECTIONS


NUMERIC = frozenset(
    f"{section}.{name}"
    for section, names_ in {
        "sae": "k l1_alpha expansion_factor n_latents aux_coeff aux_target",
        "train": "lr steps batch_size seed seed_init seed_data l0_target",
        "activations": "d",
    }.items()
    for name in names_.split()
)
"""Settings that are numbers, or a word such as `auto`."""

LIKE_A_NUMBER = re.compile(r"[^A-Za-z]*[0-9][^A-Za-z]*(e[+-]?[0-9]+)?[kKmM%]?")
"""`0,0001`, `16k`, `1 024`: a number to its writer."""


def _setting(row: Mapping[str, Any], column: Column, place: str) -> Any:
    cell = row.get(column.theirs)
    value = cells.setting(cell)
    unread = column.ours in NUMERIC and isinstance(value, str) and LIKE_A_NUMBER.fullmatch(value)
    if unread or cells.is_grouped(cell):
        raise BadInput(
            f"column {column.theirs}, {place}: {cell!r} is no number that can only be read in one "
            f"way: write it with digits and a decimal point alone, or leave the column out with "
            f"--map '{column.theirs}={terms.IGNORE}'"
        )
    return value


def _told_by_metrics(final: Mapping[str, float], error: str | None) -> tuple[Status, str | None]:
    """Status of a run without a status column."""
    if not final:
        return "failed", error or "the file has no metric of it"
    lost = [name for name in DIVERGING if not math.isfinite(final.get(name, 0.0))]
    if lost:
        return "diverged", error or f"{lost[0]} is not finite in the file"
    return "done", error


DIVERGING = ("fvu", "explained_variance", "mse", "loss", "loss_reconstruction")
"""Metrics of a run that has diverged where they are not finite."""


def _has(record: Mapping[str, Any], key: str) -> bool:
    return not cells.is_missing(record.get(key))


def _complete_width(settings: dict[str, Any]) -> None:
    """The dictionary size, where only the expansion of a known width is given."""
    expansion, d = settings.get("sae.expansion_factor"), settings.get("activations.d")
    if "sae.n_latents" not in settings and _is_number(expansion) and _is_number(d):
        settings["sae.n_latents"] = round(expansion * d)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _status(cell: Any, column: str, place: str) -> tuple[Status, str | None]:
    if not column:
        return "done", None
    word = re.sub(r"[^a-z]+", "_", str(cell).strip().lower())
    if word not in terms.STATUSES:
        raise BadInput(
            f"column {column}, {place}: {cell!r} is no status: known are "
            f"{', '.join(terms.STATUSES)}; mend it, or --map '{column}={terms.IGNORE}'"
        )
    status = terms.STATUSES[word]
    return status, None if status == "done" else f"{column} is {cell} in the file"


def _metrics(
    row: Mapping[str, Any], columns: Sequence[Column], n_latents: Any, place: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics in our forms, and how far each may lie off for its digits."""
    width = float(n_latents) if _is_number(n_latents) else math.nan
    final: dict[str, float] = {}
    digits: dict[str, float] = {}
    for column in columns:
        cell = row.get(column.theirs)
        if column.ours not in terms.FORMS or cells.is_missing(cell):
            continue
        form = terms.FORMS[column.ours]
        written = _number(cell, column.theirs, place)
        if "n_latents" in form.words and math.isnan(width):
            raise BadInput(
                f"column {column.theirs} is read as {column.ours}, and {place} has no n_latents "
                f"to divide by: name its column with --map COLUMN=n_latents, or say "
                f"--map '{column.theirs}=dead_features' where it is a share"
            )
        value = written if column.ours == form.metric else _tidy(form.convert(written, width))
        _refuse_impossible(form.metric, value, column, cell, place)
        half = abs(form.convert(written + cells.half_digit(cell), width) - value)
        if form.metric in final:
            _refuse_contradiction(form.metric, columns, (final, value), digits, half, place)
            continue
        final[form.metric], digits[form.metric] = value, half
    _complete(final, digits, width)
    return final, digits


def _refuse_contradiction(
    metric: str,
    columns: Sequence[Column],
    values: tuple[dict[str, float], float],
    digits: dict[str, float],
    half: float,
    place: str,
) -> None:
    """Two columns of one metric must agree to their digits."""
    first, other = values[0][metric], values[1]
    if not abs(first - other) > digits[metric] + half + TOLERANCE:
        return
    theirs = [one.theirs for one in columns if one.field == metric]
    raise BadInput(
        f"columns {' and '.join(theirs)} are both read as {metric}, and {place} has {first:g} and "
        f"{other:g}: leave one out with --map '{theirs[-1]}={terms.IGNORE}' or --map "
        f"'{theirs[0]}={terms.IGNORE}'"
    )


def _tidy(value: float) -> float:
    """A converted number without the noise of binary arithmetic, so that 1 - 0.702 is 0.298."""
    return float(f"{value:.12g}")


def _number(cell: Any, column: str, place: str) -> float:
    value = cells.number(cell)
    if value is None:
        raise BadInput(
            f"column {column}, {place}: {cell!r} is no number: mend the file, or leave the column "
            f"out with --map '{column}={terms.IGNORE}'"
        )
    return value


def _refuse_impossible(metric: str, value: float, column: Column, cell: Any, place: str) -> None:
    """A value outside the metric's range is another form of it, or another thing."""
    share = METRICS[metric].unit == "share"
    low = -math.inf if metric == "explained_variance" else 0.0
    high = 1.0 if share or metric == "explained_variance" else math.inf
    bounded = share or metric in ("fvu", "explained_variance", "l0", "mse")
    if not (bounded and math.isfinite(value)) or low - TOLERANCE <= value <= high + TOLERANCE:
        return
    forms = [
        name
        for name, form in terms.FORMS.items()
        if form.metric == metric and name not in (metric, column.ours)
    ]
    ways = "".join(f"--map '{column.theirs}={name}', " for name in forms)
    raise BadInput(
        f"column {column.theirs}, {place}: {cell} cannot be {column.ours} ({metric} would be "
        f"{value:g}): say what it is, {ways}or --map '{column.theirs}={terms.IGNORE}'"
    )


def _complete(final: dict[str, float], digits: dict[str, float], width: float) -> None:
    """Add metrics that follow from others by definition."""
    for one, other in (("fvu", "explained_variance"), ("explained_variance", "fvu")):
        if one not in final and other in final:
            final[one] = _tidy(1 - final[other])
            digits[one] = digits[other]
    if "l0" not in final and "l0_fraction" in final and math.isfinite(width):
        final["l0"] = _tidy(final["l0_fraction"] * width)
    elif "l0_fraction" not in final and "l0" in final and math.isfinite(width):
        final["l0_fraction"] = final["l0"] / width
