"""The text of `python -m sae_sweep --help`, made from the settings' own docstrings."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

from sae_sweep.cli.compose import choices, compose, validate_run
from sae_sweep.config import in_words, settings
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS
from sae_sweep.search import LISTED, examples, look_up

WIDTH = 100
INDENT = "  "

USAGE = """\
sae_sweep: hyperparameter sweeps of sparse autoencoders, and a report that can be believed

Commands, with `sae-sweep` in place of `python -m sae_sweep` where it is on the path
  python -m sae_sweep +sweep=NAME [KEY=VALUE ...] [--config-dir DIR]
      run or continue a sweep and write outputs/NAME/report.md; dry_run=true only shows the plan;
      DIR holds sweeps and other choices of your own, e.g. DIR/sweep/mine.yaml
  python -m sae_sweep report|status|watch [SWEEP]  or  compare UID UID ...
      read the results, also while a sweep runs (also: python -m analysis report ...)
  python -m sae_sweep export [SWEEP] --format csv|parquet
      write a sweep's trials as a table
  python -m sae_sweep export TRIAL --format saelens
      write a trial's weights for another tool
  python -m sae_sweep evaluate PATH|ORG/NAME [--sweep NAME] [--format sparsify]
      measure an SAE that was trained elsewhere on a sweep's validation rows, beside its trials
  python -m sae_sweep publish UID --hub ORG/NAME [--private] [--dry-run]
      upload a trial to the Hugging Face hub: SAELens layout, metrics, a card made of its records
  python -m sae_sweep submit slurm +sweep=NAME --gpus 8 [--nodes 2] [--time 4h] [--requeue] [--now]
      write (with --now: submit) one batch script that runs the sweep in a Slurm allocation
  python -m sae_sweep latents TRIAL
      a page of what each latent of a trial fires on; --filter always_on prints ids to leave out,
      --format delphi|neuronpedia writes what these tools read
  python -m sae_sweep track NAME --sink wandb
      copy a sweep to a tracker; sinks=[tensorboard,wandb,trackio,mlflow] does it while it runs
  python -m sae_sweep import FILE --name NAME
      write the report of a sweep that was run elsewhere: .csv, .jsonl, .parquet, folder of runs
  python -m sae_sweep suggest --target-l0 0.05 --d 384 --n-latents 3072
      name the l1_alpha that gives this L0, from past trials
  python -m sae_sweep forget --status STATUS [--sweep NAME]
      remove the records and folders of trials that ended so, e.g. failed
  python -m sae_sweep help settings
      write docs/settings.md
  python -m sae_sweep help metrics
      list the metrics that objectives, constraints and stop rules may name

Values and axes
  sae.k=32                                a value; where the sweep has an axis, in its place
  sae.k=[8,16]                            an axis: every value
  'train.lr={loguniform:[1e-5,1e-3]}'     an axis that is drawn, with search=random, optuna or
                                          target; also uniform, int (bounds included), choice"""

EXIT_CODES = """\
Exit codes
  0    every trial is done, was stopped by a policy, or diverged
  1    some trials failed, ran out of memory or were interrupted
  2    bad input, named in one message; nothing was started
  130  Ctrl-C; the same command continues"""


def help_text(config_dir: Path | None = None) -> str:
    """Write the help, at most 100 columns wide.

    Args:
        config_dir: a user's own folder of choices, whose sweeps are listed too.

    Raises:
        BadInput: if that folder does not exist.
    """
    given = compose([], config_dir).settings
    known = choices(config_dir)
    sweeps = [(name, _sweep(name, config_dir)) for name in known["sweep"]]
    groups = [(group, ", ".join(names)) for group, names in known.items() if group != "sweep"]
    described = [
        (one.key, f"{one.text} [{in_words(look_up(given, one.key, one.default))}]")
        for one in settings()
    ]
    return "\n\n".join(
        [
            USAGE,
            _section("Sweeps (+sweep=NAME)", sweeps),
            _section("Groups (GROUP=CHOICE)", groups),
            _section("Settings (KEY=VALUE), each with its default", described),
            EXIT_CODES,
        ]
    )


def metrics_text() -> str:
    """Write the metrics: name, unit, which way is better, definition."""
    better = {"down": "lower is better", "up": "higher is better", "none": "neither is better"}
    rows = [
        (one.name, f"{one.unit}, {better[one.direction]}: {one.definition}")
        for one in METRICS.values()
    ]
    return _section("Metrics, as search.objective=[fvu,l0], constraints and stop rules", rows)


def settings_page() -> str:
    """Write every setting, its default and its meaning as a page of Markdown."""
    given = compose([], None).settings
    lines = ["# Settings", "", "Written by `python -m sae_sweep help settings`.", ""]
    groups: dict[str, list[str]] = {}
    for one in settings():
        group = one.key.partition(".")[0] if "." in one.key else "the run"
        shown = in_words(look_up(given, one.key, one.default)).replace("|", "\\|")
        text = one.text.replace("|", "\\|")
        groups.setdefault(group, []).append(f"| `{one.key}` | `{shown}` | {text} |")
    for group, rows in groups.items():
        lines += [
            f"## {group}",
            "",
            "| setting | default | meaning |",
            "| --- | --- | --- |",
            *rows,
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def _sweep(name: str, config_dir: Path | None) -> str:
    """Count the trials of a sweep and quote its question; a sweep with a mistake says which."""
    try:
        composed = compose([f"sweep={name}"], config_dir).settings
        run = validate_run(composed)
        points = examples(composed, run.sweep, run.search)
    except BadInput as error:
        return f"cannot be run: {error}"
    if run.search.kind not in LISTED:
        return f"at most {run.search.trials} trials. {run.sweep.question}"
    return f"{len(points)} {'trial' if len(points) == 1 else 'trials'}. {run.sweep.question}"


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    column = max(len(name) for name, _ in rows) + len(INDENT)
    lines = [title]
    for name, text in rows:
        first = f"{INDENT}{name:<{column}}"
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_on_hyphens=False,
        )
    return "\n".join(lines)
