"""`python -m sae_sweep export UID --format saelens`: a trial in another library's format."""

import argparse
import sys
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records.store import Reader, add_options, chosen_url


def export(arguments: list[str]) -> int:
    """Write a trial's weights in SAELens' format, normalisation folded in.

    Raises:
        BadInput: no such trial, or its weights were not kept.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep export")
    parser.add_argument("trial", help="label, folder name or beginning of a uid")
    parser.add_argument("--format", choices=["saelens"], required=True)
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: beside the weights")
    add_options(parser)
    options = parser.parse_args(arguments)
    with Reader(chosen_url(options)) as reader:
        trial = reader.find(options.trial)
    folder = options.outputs / "trials" / trial.folder
    if not (folder / "sae.safetensors").exists():
        raise BadInput(
            f"{trial.folder} has no weights in {folder} (status {trial.status}): "
            "train it with store.weights=all, e.g. with rerun=all"
        )
    from sae_sweep.sae import saelens

    target = options.to or folder / "saelens"
    saelens.export(folder, target)
    sys.stdout.write(f"wrote {target}/cfg.json and {target}/sae_weights.safetensors\n")
    return 0
