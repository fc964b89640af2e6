"""One sweep, from validated settings to the path of its report."""

import importlib
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_sweep.cli import exit_codes
from sae_sweep.cli.latents import page
from sae_sweep.config import RunConfig
from sae_sweep.errors import BadInput, without_passwords
from sae_sweep.records import Status, TrialRecord
from sae_sweep.records.names import LATENTS_PAGE
from sae_sweep.records.store import Reader, default_url
from sae_sweep.remote import fetch
from sae_sweep.sae import WEIGHTS_FILE
from sae_sweep.search import warnings
from sae_sweep.sinks import require
from sae_sweep.sinks.process import SinkProcesses
from sae_sweep.tune import sweep
from sae_sweep.tune.estimate import describe_cost
from sae_sweep.tune.expansion import Expansion, expand_sweep

NAMED = 5
"""Trials that are named in a line."""

MISSING: tuple[Status, ...] = ("failed", "oom", "interrupted", "queued", "running")
"""A sweep with trials of these statuses has not come to its end."""


def run(settings: dict[str, Any], config: RunConfig, arguments: list[str]) -> int:
    """Expand and run a sweep, render its report, and return the exit code.

    Args:
        settings: the composed configuration.
        config: the same, validated.
        arguments: the command line, for the record.

    Raises:
        BadInput: before any trial starts.
    """
    require(config.sinks)
    outputs = sweep.outputs_folder(config)
    _keep_caches_inside(outputs)
    expansion = expand_sweep(settings, config, outputs)
    if config.dry_run:
        done = sweep.finished_trials(config, [one.uid for one in expansion.trials], outputs)
        sys.stdout.write("\n".join(describe_cost(expansion, done, config, outputs)) + "\n")
        return 0
    for words in expansion.merged:
        sys.stderr.write(f"merged: {words}\n")
    for words in warnings(config.sweep, config.search):
        sys.stderr.write(f"warning: {words}\n")
    url = config.store.url or default_url(outputs)
    with SinkProcesses(config.sinks, config.sweep.name, outputs, url):
        has_pages = config.evaluate.windows > 0 and "model" in settings["activations"]
        also = [_ReportLoader(has_pages=has_pages)] if config.executor.kind == "ray" else []
        result = sweep.run(expansion, config, outputs, _command(arguments), also)
        _say_how_it_ended(result, expansion, arguments)
        if result.lost is None:  # else the other driver renders it
            _render(config, outputs)
    if result.interrupted:
        return exit_codes.INTERRUPTED
    return exit_codes.FAILED if _is_missing_some(result) else 0


class _ReportLoader:
    """Loads what renders the report, which takes 2 to 5 s, while other processes train."""

    def __init__(self, *, has_pages: bool) -> None:
        pages = ["sae_sweep.evaluate.contexts", "transformers"] if has_pages else []
        self._modules = ["analysis.report", *pages]
        self._thread = threading.Thread(target=self._load)

    def started(self, *_: object) -> None:
        """A trial was started: from now on this process is idle."""
        if self._thread.ident is None:
            self._thread.start()

    def _load(self) -> None:
        for module in self._modules:
            importlib.import_module(module)

    def reported(self, *_: object) -> None:
        """A trial reported."""

    def ended(self, *_: object) -> None:
        """A trial ended."""


def _keep_caches_inside(outputs: Path) -> None:
    """Matplotlib and Triton write caches; outputs is the one place that is written to."""
    for variable, folder in (("MPLCONFIGDIR", "matplotlib"), ("TRITON_CACHE_DIR", "triton")):
        path = outputs / "cache" / folder
        path.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(variable, str(path))
    try:
        Path.home()
    except RuntimeError:  # a uid without an account, as in containers: Ray and Torch ask for both
        home = outputs / "cache" / "home"
        home.mkdir(exist_ok=True)
        os.environ["HOME"] = str(home.absolute())
        os.environ.setdefault("USER", f"uid-{os.getuid()}")


def _command(arguments: list[str]) -> str:
    """The command line, fit to be shown and recorded."""
    return without_passwords(shlex.join(["python", "-m", "sae_sweep", *arguments]))


def _is_missing_some(result: sweep.Result) -> bool:
    return result.unfinished or any(result.counts[status] for status in MISSING)


def _say_how_it_ended(result: sweep.Result, expansion: Expansion, arguments: list[str]) -> None:
    counts = ", ".join(f"{n} {status}" for status, n in sorted(result.counts.items()))
    nothing = "" if result.trained else "; nothing to train"
    sys.stderr.write(f"{len(expansion.trials)} trials: {counts}{nothing}\n")
    if result.lost is not None:
        sys.stderr.write(f"lost: {result.lost}\n")
    for words in result.notes:
        sys.stderr.write(f"search: {words}\n")
    # with rerun= the same command would start over
    again = _command([word for word in arguments if not word.startswith("rerun=")])
    if result.without_weights:
        shown = ", ".join(result.without_weights[:NAMED])
        more = ", ..." if len(result.without_weights) > NAMED else ""
        sys.stderr.write(
            f"{len(result.without_weights)} done trials lack their weights: {shown}{more}\n"
            f"to train them again: {again} rerun=weights\n"
        )
    if result.interrupted or (result.lost is not None and _is_missing_some(result)):
        sys.stderr.write(f"to continue: {again}\n")
    elif result.counts["failed"] + result.counts["oom"]:
        sys.stderr.write(f"to retry what failed: {again} rerun=failed\n")


def _write_latents(trials: Sequence[TrialRecord], config: RunConfig, outputs: Path) -> None:
    """Write the latents pages of recommended trials, which the report links to."""
    if config.evaluate.windows == 0:
        return
    for trial in trials:
        folder = fetch(outputs, f"trials/{trial.folder}")
        settings = trial.config["activations"]
        of_tokens = "model" in settings and settings.get("pooling") == "token"
        if of_tokens and (folder / WEIGHTS_FILE).exists() and not (folder / LATENTS_PAGE).exists():
            try:
                page(trial, outputs)
            except BadInput as error:  # the report comes all the same
                sys.stderr.write(f"note: no page of latents: {error}\n")


def _render(config: RunConfig, outputs: Path) -> None:
    # imported here: matplotlib reads MPLCONFIGDIR when it is imported
    from analysis.report import is_current, recommended, render, share

    folder = fetch(outputs, config.sweep.name)
    with Reader(config.store.url or default_url(outputs)) as reader:
        records = reader.sweep(config.sweep.name)
        if not is_current(records, folder):
            _write_latents(recommended(records), config, outputs)
            render(records, folder, reader.history)
    shown = Path(os.path.relpath(folder / "report.md"))
    sys.stdout.write(f"report: {shown} (figures/ and data/ beside it)\n")
    if (there := share(folder)) is not None:
        sys.stdout.write(f"published: {there}\n")
