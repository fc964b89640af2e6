"""`python -m sae_sweep latents TRIAL`: what each latent fires on, as a page or for other tools."""

import argparse
import sys
from pathlib import Path

from sae_sweep.inputs import edge
from sae_sweep.records import TrialRecord
from sae_sweep.records.names import CONTEXTS_FILE, LATENTS_PAGE
from sae_sweep.records.store import Reader, add_options, chosen_url
from sae_sweep.remote import fetch, remote_of


def latents(arguments: list[str]) -> int:
    """Collect a trial's contexts where they are missing, and write them in one format.

    Raises:
        BadInput: no such trial, no weights of it, or activations that do not know their tokens.
    """
    from analysis.latents import FILTERS, filtered, write_neuronpedia

    parser = argparse.ArgumentParser(prog="python -m sae_sweep latents")
    parser.add_argument("trial", help="label, folder name or beginning of a uid")
    parser.add_argument(
        "--format",
        choices=["page", "delphi", "neuronpedia"],
        default="page",
        help="page: latents.html (default); else a folder of this name beside it",
    )
    parser.add_argument("--filter", choices=FILTERS, help="print the ids of such latents instead")
    add_options(parser)
    options = parser.parse_args(arguments)
    with Reader(chosen_url(options)) as reader:
        trial = reader.find(options.trial)
    folder = fetch(options.outputs, f"trials/{trial.folder}")
    if options.filter is not None:
        sys.stdout.writelines(f"{one}\n" for one in filtered(folder, options.filter))
        return 0
    with edge(str(folder), "check its permissions", "cannot be written"):
        match options.format:
            case "delphi":
                # imported here: a page of contexts that are there needs no torch
                from sae_sweep.evaluate import delphi

                _fetch_rows(trial, options.outputs)
                written = delphi.write(folder, options.outputs)
            case "neuronpedia":
                _collect(trial, folder, options.outputs)
                written = write_neuronpedia(trial, folder)
            case _:
                written = page(trial, options.outputs)
    sys.stdout.write(f"{options.format}: {written}\n")
    return 0


def page(trial: TrialRecord, outputs: Path) -> Path:
    """Write a trial's page of latents, from contexts that are there or collected now.

    Raises:
        BadInput: without weights, or where its activations do not know their tokens.
    """
    from analysis.latents import write_page

    folder = fetch(outputs, f"trials/{trial.folder}")
    _collect(trial, folder, outputs)
    with edge(str(folder), "check its permissions", "cannot be written"):
        written = write_page(trial, folder)
    remote = remote_of(outputs)
    if remote is not None:
        name = f"trials/{trial.folder}"
        files = {*(remote.index(name) or ()), CONTEXTS_FILE, LATENTS_PAGE}
        remote.publish(name, [one for one in files if (folder / one).is_file()])
    return written


def _collect(trial: TrialRecord, folder: Path, outputs: Path) -> None:
    """Collect a trial's contexts where they are missing."""
    if not (folder / CONTEXTS_FILE).exists():
        # imported here: a page of contexts that are there needs no torch
        from sae_sweep.evaluate import contexts

        _fetch_rows(trial, outputs)
        contexts.write(folder, outputs)


def _fetch_rows(trial: TrialRecord, outputs: Path) -> None:
    fetch(outputs, f"activations/{trial.config['activations']['fingerprint']}")
