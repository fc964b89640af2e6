"""`python -m sae_sweep export TRIAL --format saelens`: a trial in another library's format."""

import argparse
import sys
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Reader, add_options, chosen_url
from sae_sweep.remote import fetch

FORMATS = ["saelens", "sparsify", "dictionary_learning", "circuit-tracer"]


def export(arguments: list[str]) -> int:
    """Write a trial's weights in another library's format, normalisation folded in.

    Raises:
        BadInput: no such trial, its weights were not kept, or the library has nothing like it.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep export")
    parser.add_argument("trial", help="label, folder name or beginning of a uid")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: beside the weights")
    add_options(parser)
    options = parser.parse_args(arguments)
    with Reader(chosen_url(options)) as reader:
        trial = reader.find(options.trial)
    folder = folder_with_weights(options.outputs, trial)
    from sae_sweep.sae import export as write

    said = write(folder, options.to or folder / options.format, options.format)
    sys.stdout.write(f"{said}\n")
    return 0


def folder_with_weights(outputs: Path, trial: TrialRecord) -> Path:
    """The folder of a trial that is done.

    Raises:
        BadInput: it is not, or its weights were not kept.
    """
    folder = fetch(outputs, f"trials/{trial.folder}")
    if trial.status != "done" or not (folder / "sae.safetensors").exists():
        raise BadInput(
            f"{trial.folder} has no weights in {folder} (status {trial.status}): "
            "train it with store.weights=all, e.g. with rerun=all"
        )
    return folder
