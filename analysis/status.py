"""A sweep at this moment, as plain text."""

import sys
import time
from collections import Counter

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from analysis.findings.ranking import picks
from analysis.page.markdown import number
from analysis.study.table import load
from sae_sweep.records import STATUSES
from sae_sweep.records.store import Reader, Sweep

EVENTS = 5
MOST_RUNNING = 8


def status(sweep: Sweep, reader: Reader) -> str:
    """Counts, the first trials so far, what runs, and the last events."""
    loaded = load(sweep)
    counts = Counter(loaded.trials["status"])
    parts = [f"{counts[one]} {one}" for one in STATUSES if counts[one]]
    state = "running" if sweep.run.alive else "not running"
    lines = [f"{sweep.run.name}: {len(loaded.trials)} trials, {state}", "  " + ", ".join(parts)]
    for pick in picks(loaded):
        label, values = loaded.member(pick.uid).trial.label, ", ".join(loaded.values(pick.uid))
        lines.append(f"  {pick.title} ({pick.criterion}): {label} ({pick.uid}): {values}")
    running = [record for record in loaded.records if record.status == "running"]
    curves = reader.history([record.uid for record in running[:MOST_RUNNING]], "fvu")
    for record in running[:MOST_RUNNING]:
        total = record.config.get("train", {}).get("steps")
        steps, fvu = curves.get(record.uid, (np.zeros(1, dtype=int), np.full(1, np.nan)))
        lines.append(
            f"  running {record.label}: step {steps[-1]} of {total}, fvu {number(fvu[-1])}"
        )
    if len(running) > MOST_RUNNING:
        lines.append(f"  and {len(running) - MOST_RUNNING} more running")
    for event in reader.events(sweep.run.id)[-EVENTS:]:
        clock = time.strftime("%H:%M:%S", time.gmtime(event.time))
        lines.append(f"  {clock} {event.kind}: {event.text}")
    return "\n".join(lines)


def watch(reader: Reader, name: str | None, every: float) -> None:
    """Show the status again and again until the sweep ends."""
    sweep = reader.sweep(name)
    if not sys.stdout.isatty():
        shown = None
        while True:
            text = status(sweep, reader)
            if text != shown:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
                shown = text
            if not sweep.run.alive:
                return
            time.sleep(every)
            sweep = reader.sweep(sweep.run.name)
    with Live(Text(status(sweep, reader)), console=Console(), auto_refresh=False) as live:
        while sweep.run.alive:
            time.sleep(every)
            sweep = reader.sweep(sweep.run.name)
            live.update(Text(status(sweep, reader)), refresh=True)
