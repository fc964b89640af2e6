"""`sae-sweep`, also as `python -m sae_sweep`: dispatch of commands and handling of errors."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from sae_sweep import process
from sae_sweep.cli import exit_codes
from sae_sweep.errors import BadInput, CutShort, lacks_processes, lacks_room
from sae_sweep.inputs import reason


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 1, 2 or 130."""
    try:
        return _command(arguments)
    except CutShort as error:
        sys.stderr.write(f"sae_sweep: {error}\n")
        return exit_codes.FAILED
    except BadInput as error:
        sys.stderr.write(f"sae_sweep: {error}\n")
        return exit_codes.BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("\nsae_sweep: stopped; the same command continues where it was\n")
        return exit_codes.INTERRUPTED
    except (OSError, RuntimeError) as error:
        if lacks_room(error):
            way_out = "make room there"
        elif lacks_processes(error):
            way_out = "raise the limit of processes (ulimit -u), or end others"
        elif isinstance(error, OSError) and error.filename is not None:
            sys.stderr.write(
                f"sae_sweep: {error.filename} cannot be used ({reason(error)}): check the path "
                "and its permissions\n"
            )
            return exit_codes.BAD_INPUT
        else:
            raise
        sys.stderr.write(f"sae_sweep: {error}: {way_out}; the same command continues\n")
        return exit_codes.FAILED


PROGRAM = "python -m sae_sweep"
TABLES = (None, "csv", "parquet")
"""Formats of `export` for a sweep's table; others are for a trial's weights."""


def _format(arguments: list[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--format", nargs="?")
    return parser.parse_known_args(arguments)[0].format


def _command(arguments: list[str]) -> int:
    # a command imports what it needs and no more: help and messages come without torch
    match arguments:
        case ["help", ("metrics" | "settings") as about] | ["--help" | "-h", "metrics" as about]:
            from sae_sweep.cli.help import metrics_text, settings_page

            sys.stdout.write((metrics_text() if about == "metrics" else settings_page()) + "\n")
            return 0
        case ["help", *rest]:
            return _command([*rest, "--help"])
        case [("evaluate" | "forget" | "latents" | "publish" | "submit" | "track") as name, *rest]:
            return _own(name, rest)
        case ["export", *rest] if _format(rest) not in TABLES:
            return _own("export", rest)
        case ["export" | "report" | "status" | "watch" | "compare" | "suggest" | "import", *_]:
            from analysis.cli import main as analyse

            process.interruptible()
            return analyse(arguments, PROGRAM)
        case ["run", *rest]:
            return _sweep(rest)
        case _:
            return _sweep(arguments)


def _own(name: str, arguments: list[str]) -> int:
    """Run a command that has a module of its own, with a function of its name in it."""
    command = getattr(importlib.import_module(f"sae_sweep.cli.{name}"), name)
    process.interruptible()
    return int(command(arguments))


def _sweep(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--help", "-h", action="store_true")
    options, overrides = parser.parse_known_args(arguments)
    if options.help:
        from sae_sweep.cli.help import help_text

        sys.stdout.write(help_text(options.config_dir) + "\n")
        return 0
    _require_threads()
    from sae_sweep.cli.compose import compose, validate_run

    settings = compose(overrides, options.config_dir).settings
    config = validate_run(settings)

    from sae_sweep.cli.run import run

    process.interruptible()
    return run(settings, config, arguments)


def _require_threads() -> None:
    """Check that threads can be started: at a limit, some libraries abort the process.

    NumPy, Torch and Arrow each have a pool with a thread a core; two more write records.
    """
    pool = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(pool) if pool.isdecimal() else len(os.sched_getaffinity(0))
    need = 3 * cores + 2
    allowed = process.startable_threads(need)
    if allowed < need:
        raise BadInput(
            f"a sweep starts some {need} threads, and no more than {allowed} can be started here: "
            "raise the limit of processes (ulimit -u, or the container's), or end others"
        )
