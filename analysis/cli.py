"""`sae-sweep report|status|...`, also as `python -m analysis ...`: reads the store only."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sae_sweep.errors import BadInput
from sae_sweep.inputs import reason
from sae_sweep.process import INTERRUPTED
from sae_sweep.records.store import OUTPUTS, Reader, Sweep, add_options, chosen_url
from sae_sweep.remote import fetch

Command = Callable[..., None]
"""Takes the arguments, and a reader of the store unless it needs none."""


def main(argv: Sequence[str], program: str = "python -m analysis") -> int:
    """Run one command; returns the exit code: 0, or 2 for what the user can mend."""
    arguments = _parser(program).parse_args(argv)
    # matplotlib would otherwise keep its fonts in the home folder
    fonts = ((arguments.outputs or OUTPUTS) / "cache" / "matplotlib").absolute()
    os.environ.setdefault("MPLCONFIGDIR", str(fonts))
    try:
        if arguments.command is _import:
            _import(arguments)
        else:
            with Reader(chosen_url(arguments)) as reader:
                arguments.command(arguments, reader)
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that may not be written, a disk that is full
        sys.stderr.write(f"{error.filename or 'a file'} cannot be written ({reason(error)})\n")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    written = argparse.ArgumentParser(add_help=False)
    written.add_argument(
        "--html", action="store_true", help="also report.html: one file, its trials to explore"
    )
    written.add_argument(
        "--objectives",
        metavar="A,B",
        action="append",
        default=[],
        help="also show the Pareto front of these metrics, e.g. fvu,k; repeatable",
    )
    written.add_argument(
        "--thresholds", metavar="FILE", type=Path, help="bands to grade by; else the package's own"
    )
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        command: Command,
        text: str,
        *more: argparse.ArgumentParser,
        takes_sweep: bool = True,
        takes_store: bool = True,
    ) -> argparse.ArgumentParser:
        name = command.__name__.strip("_")
        added = commands.add_parser(name, parents=[*more], help=text, description=text)
        add_options(added, store=takes_store)
        added.set_defaults(command=command)
        if takes_sweep:
            added.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the latest")
        return added

    add(_report, "Write a sweep's report.md, figures and data.", written)
    add(_status, "Say how a sweep stands.")
    watch = add(_watch, "Say how a sweep stands until it ends.")
    watch.add_argument("--every", metavar="SECONDS", type=float, default=5.0, help="default: 5")
    watch.add_argument(
        "--html", action="store_true", help="as a page that a browser on this machine follows"
    )
    watch.add_argument(
        "--port", metavar="N", type=int, default=0, help="of that page; default: any that is free"
    )
    compare = add(_compare, "Put trials side by side.", takes_sweep=False)
    compare.add_argument(
        "uids", nargs="+", metavar="UID", help="the beginning of a uid, or a label"
    )
    compare.set_defaults(outputs=None)  # figures are drawn where it is given
    latents = add(_latents, "Write what a trial's latents fire on.", takes_sweep=False)
    latents.add_argument("trial", metavar="UID", help="the beginning of a uid, or a label")
    latents.add_argument(
        "--format", choices=["page", "neuronpedia"], default="page", help="default: page"
    )
    latents.add_argument(
        "--filter", choices=["always_on", "dead"], help="print the ids of such latents instead"
    )
    export = add(_export, "Write a sweep's trials as a table.")
    export.add_argument("--format", choices=["csv", "parquet"], default="csv", help="default: csv")
    export.add_argument("--to", metavar="FILE", type=Path, help="default: the standard output")
    suggest = add(_suggest, "Name the l1_alpha (or k) that gives a wanted L0.", takes_sweep=False)
    suggest.add_argument(
        "--target-l0", type=float, required=True, metavar="SHARE", help="e.g. 0.05"
    )
    suggest.add_argument("--d", type=int, required=True, help="width of the activations")
    suggest.add_argument(
        "--n-latents", type=int, required=True, metavar="M", help="dictionary size"
    )
    suggest.add_argument("--kind", default="l1", help="architecture, e.g. gated; default: l1")
    suggest.add_argument(
        "--activations", metavar="FINGERPRINT", help="default: the only ones with this d"
    )
    text = "Write the report of a sweep that was run elsewhere."
    _take_foreign(add(_import, text, written, takes_sweep=False, takes_store=False))
    return parser


def _take_foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="FILE", type=Path, help="a .csv, .jsonl or .parquet, or a folder of runs"
    )
    parser.add_argument("--name", required=True, help="of the report's folder in outputs")
    parser.add_argument("--question", default="", metavar="TEXT", help="what the sweep asks")
    parser.add_argument(
        "--map",
        metavar="THEIRS=OURS",
        action="append",
        default=[],
        help="read a column as a metric or setting of ours, or as `ignore`; repeatable",
    )
    parser.add_argument(
        "--bounds",
        metavar="METRIC=LOW:HIGH",
        action="append",
        default=[],
        help="recompute a published score as the sum of metrics scaled to bounds; repeatable",
    )


def _report(arguments: argparse.Namespace, reader: Reader) -> None:
    sweep = reader.sweep(arguments.sweep)
    _write(arguments, sweep, history=reader.history)


def _import(arguments: argparse.Namespace) -> None:
    from analysis.foreign import import_sweep, options

    request = options.request(
        arguments.path, arguments.name, arguments.question, arguments.map, arguments.bounds
    )
    sweep, imported = import_sweep(request)
    sys.stdout.write(options.shown(imported) + "\n")
    _write(arguments, sweep, history=imported.history, imported=imported)


def _write(arguments: argparse.Namespace, sweep: Sweep, **more: Any) -> None:
    from analysis.findings.fronts import objectives
    from analysis.findings.thresholds import DEFAULT, load
    from analysis.report import render, share

    folder = fetch(arguments.outputs, sweep.run.name)
    asked = [objectives(text) for text in arguments.objectives]
    bands = load(arguments.thresholds or DEFAULT)
    path = render(sweep, folder, html=arguments.html, objectives=asked, thresholds=bands, **more)
    sys.stdout.write(f"report: {path}\n")
    if arguments.html:
        sys.stdout.write(f"page: {path.with_suffix('.html')}\n")
    if (there := share(folder)) is not None:
        sys.stdout.write(f"published: {there}\n")


def _status(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.status import status

    sys.stdout.write(status(reader.sweep(arguments.sweep), reader) + "\n")


def _watch(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.status import watch

    if not (math.isfinite(arguments.every) and arguments.every > 0):
        raise BadInput(f"--every={arguments.every:g} is no pause: give seconds above 0, e.g. 5")
    if not 0 <= arguments.port < 65536:
        raise BadInput(f"--port={arguments.port} is no port: give 1 to 65535, e.g. 8000")
    if arguments.html:
        from analysis import live

        outputs = arguments.outputs or OUTPUTS
        live.watch(reader, arguments.sweep, outputs, arguments.every, arguments.port)
    else:
        watch(reader, arguments.sweep, arguments.every)


def _compare(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.topics.comparison import common_study, compare, draw

    trials = {trial.uid: trial for trial in map(reader.find, arguments.uids)}
    if len(trials) < 2:
        raise BadInput(
            f"compare {' '.join(arguments.uids)} names one trial: give two different ones or more"
        )
    chosen = list(trials.values())
    sys.stdout.write(compare(chosen, common_study(chosen, reader)) + "\n")
    if arguments.outputs is not None:
        for path in draw(chosen, reader, arguments.outputs):
            sys.stdout.write(f"figure: {path}\n")


def _latents(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.latents import filtered, write_neuronpedia, write_page

    trial = reader.find(arguments.trial)
    folder = fetch(arguments.outputs or OUTPUTS, f"trials/{trial.folder}")
    if arguments.filter is not None:
        sys.stdout.writelines(f"{one}\n" for one in filtered(folder, arguments.filter))
        return
    write = write_neuronpedia if arguments.format == "neuronpedia" else write_page
    sys.stdout.write(f"{arguments.format}: {write(trial, folder)}\n")


def _suggest(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.topics.response.suggest import Wanted, suggest

    n_latents, source = arguments.n_latents, arguments.activations
    wanted = Wanted(arguments.target_l0, arguments.d, n_latents, source, arguments.kind)
    sys.stdout.write(suggest(reader.all_trials(), wanted) + "\n")


def _export(arguments: argparse.Namespace, reader: Reader) -> None:
    from analysis.data import export

    export(reader.sweep(arguments.sweep), arguments.format, arguments.to)
