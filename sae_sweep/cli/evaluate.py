"""`python -m sae_sweep evaluate PATH --sweep NAME`: an SAE trained elsewhere, on a sweep's rows."""

import argparse
import sys
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records.references import FOLDER, Reference
from sae_sweep.records.store import Reader, add_options, chosen_url
from sae_sweep.remote import fetch

FORMATS = ["saelens", "sparsify", "dictionary_learning", "sae_sweep"]
SHOWN = ("fvu", "l0", "dead_features", "always_on", "ce_loss_increase", "output_cosine", "f1")


def evaluate(arguments: list[str]) -> int:
    """Measure an autoencoder on a sweep's validation rows, and put it beside the sweep's trials.

    Raises:
        BadInput: no such sweep or autoencoder, a pickle, or one that is not of the sweep's rows.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep evaluate")
    parser.add_argument("path", help="folder with its weights, or ORG/NAME[/FOLDER] of the hub")
    parser.add_argument("--format", choices=FORMATS, help="default: what its files say")
    parser.add_argument("--sweep", metavar="NAME", help="whose validation rows; default: latest")
    parser.add_argument(
        "--activations", metavar="FINGERPRINT", help="which, where the sweep has several"
    )
    parser.add_argument("--name", help="in tables and figures; default: its path's end")
    add_options(parser)
    options = parser.parse_args(arguments)
    with Reader(chosen_url(options)) as reader:
        sweep = reader.sweep(options.sweep)
        if not sweep.members:
            raise BadInput(f"sweep {sweep.run.name} has no trials: run it first")
        from sae_sweep.disk import replacing
        from sae_sweep.evaluate import references
        from sae_sweep.sae import published

        folder = published.find(options.path)
        theirs = published.read(folder, options.format)
        rows = references.choose(theirs, references.sources(sweep), options.activations)
        windows = int(sweep.run.config.get("evaluate", {}).get("windows", 0))
        name = options.name or "/".join(Path(options.path).absolute().parts[-2:])
        found = references.measure(theirs, rows, windows, options.outputs.absolute(), name)
        place = fetch(options.outputs, sweep.run.name)
        with replacing(place / FOLDER / found.file) as path:
            path.write_text(found.text(), encoding="utf-8")
        from analysis.report import render, share

        render(sweep, place, reader.history)
        share(place)
    sys.stdout.write(f"{_said(found)}\n")
    sys.stdout.write(f"wrote {place / FOLDER / found.file}; it stands in {place}/details.md\n")
    return 0


def _said(found: Reference) -> str:
    """One line of metrics, and a line for each check that could not be made."""
    values = [f"{one} {found.value(one):.4g}" for one in SHOWN if one in found.metrics]
    what = f"{found.name} ({found.layout}, {found.kind}, {found.n_latents:,} latents)"
    notes = [f"note: {one}" for one in found.notes]
    return "\n".join([f"{what}: {', '.join(values)}", *notes])
