"""Whether delphi reads what `latents --format delphi` writes, every latent loaded by delphi itself.

    python -m sae_sweep latents TRIAL --format delphi
    python -m benchmarks.handoffs outputs/trials/NAME

Wants eai-delphi, which asks for vllm; its reader does without: `pip install --no-deps eai-delphi`,
then faiss-cpu, asyncer, simple_parsing, blobfile, eai-sparsify, sentence-transformers. Compares
each latent's largest activation and how often it fires with latents.parquet, prints what was
found, and exits with 1 where one is off.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from safetensors.numpy import load_file

TOLERANCE = 1e-3
"""Of a latent's largest activation, as a share of it."""


class Comparison(NamedTuple):
    """Delphi beside our own table of latents."""

    trial: str
    latents: int
    """That fire, by our table."""
    loaded: int
    """That delphi made records of."""
    firings: int
    firings_difference: int
    largest_error: float
    """Largest difference of a latent's largest activation, as a share of it."""
    example: str
    """The text of delphi's first example of the most frequent latent."""


def compare(folder: Path) -> Comparison:
    """Load a trial's cache with delphi and compare it with latents.parquet."""
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset

    place = folder / "delphi" / "latents"
    (hook,) = place.iterdir()
    build = ConstructorConfig(min_examples=1, n_non_activating=1)
    dataset = LatentDataset(place, SamplerConfig(train_type="top", n_examples_test=0), build)
    known = pd.read_parquet(folder / "latents.parquet").set_index("id")
    rows = _rows(folder)
    size = json.loads((hook / "config.json").read_text())["n_tokens"]
    known = known[known["frequency"] > 0]
    firings, error, loaded, example = 0, 0.0, 0, ""
    most = known["frequency"].idxmax()
    for record in dataset:
        latent = record.latent.latent_index
        loaded += 1
        firings += round(record.per_token_frequency * size)
        ours = known["max_activation"][latent]
        error = max(error, abs(float(record.max_activation) - ours) / ours)
        if latent == most:
            example = " ".join("".join(record.train[0].str_tokens).split())
    expected = round((known["frequency"] * rows).sum())
    return Comparison(
        folder.name, len(known), loaded, firings, firings - expected, error, example[:80]
    )


def _rows(folder: Path) -> int:
    """Validation rows of a trial's activations."""
    config = json.loads((folder / "config.json").read_text())
    shards = folder.resolve().parents[1] / "activations" / config["activations"]["fingerprint"]
    return sum(
        len(load_file(path)["document"])
        for path in shards.glob("validation*.safetensors")
        if not path.name.endswith(".origins.safetensors")
    )


def main() -> int:
    """Read the command line, compare every trial; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.handoffs", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("trials", nargs="+", type=Path, help="folders, outputs/trials/NAME")
    compared = [compare(folder) for folder in parser.parse_args().trials]
    print(f"| {' | '.join(Comparison._fields)} |")
    print(f"|{' --- |' * len(Comparison._fields)}")
    for one in compared:
        cells = (f"{value:.1e}" if isinstance(value, float) else str(value) for value in one)
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    off = [
        one
        for one in compared
        if one.latents != one.loaded or one.firings_difference or one.largest_error > TOLERANCE
    ]
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
