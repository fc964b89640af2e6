"""The table of benchmarks.search, from its results file."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import readme

PAGE = Path(__file__).parent / "README.md"


def read(path: Path) -> list[dict[str, Any]]:
    """Every run that ended."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def write(path: Path, methods: list[str], budget: int) -> None:
    """Renew the table in benchmarks/README.md."""
    readme.replace(PAGE, "search", text(read(path), methods, budget))


def text(runs: list[dict[str, Any]], methods: list[str], budget: int) -> str:
    """The simulated methods, then the real trainings, as Markdown."""
    lines = [
        "| method | runs | median trials | median by case, lowest to highest | worst | missed |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for method in methods:
        found = [one for one in runs if one["method"] == method]
        if found:
            lines.append(_row(method, found, budget))
    trained = [one for one in runs if one["method"] == "trained"]
    if trained:
        counts = [one["trials"] for one in trained]
        errors = [100 * abs(one["l0"] / one["case"][2] - 1) for one in trained]
        hits = sum(one["hit"] for one in trained)
        lines += [
            "",
            f"Trained for real, cold: {hits} of {len(trained)} cases within 10 %, after "
            f"{np.median(counts):g} trials in the median and {max(counts)} at most; final L0 off "
            f"its target by {np.median(errors):.1f} % in the median, {max(errors):.1f} % at most.",
        ]
    return "\n".join(lines)


def _row(method: str, runs: list[dict[str, Any]], budget: int) -> str:
    """A run that missed counts as one trial more than the budget."""
    by_case: dict[tuple[float, ...], list[float]] = defaultdict(list)
    for one in runs:
        by_case[tuple(one["case"])].append(one["trials"] if one["hit"] else budget + 1)
    counts = [count for found in by_case.values() for count in found]
    medians = sorted(float(np.median(found)) for found in by_case.values())
    worst = max(counts)
    shown = f"over {budget}" if worst > budget else f"{worst:g}"
    missed = sum(not one["hit"] for one in runs)
    middle = float(np.median(counts))
    median = f"over {budget}" if middle > budget else f"{middle:g}"
    span = f"{min(medians[0], budget):g} to {min(medians[-1], budget):g}"
    return f"| {method} | {len(runs)} | {median} | {span} | {shown} | {missed} |"
