"""Whether SAELens reads what we export: a trained trial, loaded with sae-lens itself.

    python -m benchmarks.saelens_export outputs/trials/NAME

The trial is exported and loaded with `SAE.load_from_disk`, which is given raw activation rows; our
module is given the same rows normalised. Prints a row a trial, exits with 1 where one is off.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.shards import read_shard
from sae_sweep.sae import export, load
from sae_sweep.sae.weights import read_config

ARCHITECTURES = {
    "topk": "topk",
    "l1": "standard",
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
"""SAELens' names of our kinds; batchtopk and matryoshka leave with their threshold."""

ROWS = 4096
TOLERANCE = 1e-5
"""Largest difference that is rounding, as a share of the largest value; of l0, absolute."""


class Comparison(NamedTuple):
    """SAELens beside us, on the same rows."""

    trial: str
    architecture: str
    """As SAELens loaded it."""
    k: int | None
    """As SAELens loaded it; None where the architecture has none."""
    rows: int
    l0: float
    """Ours."""
    l0_difference: float
    latents_error: float
    """Largest difference of an activation, as a share of the largest activation."""
    x_hat_error: float
    """Largest difference of a raw reconstruction, as a share of its largest entry."""
    problems: tuple[str, ...]
    """What is off; empty where all is well."""


def raw_rows(folder: Path) -> Tensor:
    """Read the first `ROWS` validation rows of the activations that a trial was trained on."""
    fingerprint = read_config(folder)["activations"]["fingerprint"]
    shards = folder.resolve().parents[1] / "activations" / fingerprint
    names = [one.name for one in read_manifest(shards).shards if one.split == "validation"]
    return torch.cat([read_shard(shards / name).activation for name in names])[:ROWS]


@torch.no_grad()
def compare(folder: Path) -> Comparison:
    """Export a trial, load it with SAELens, and run both on raw rows."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as place:
        export(folder, place)
        theirs = SAE.load_from_disk(place)
    x, sae = raw_rows(folder), load(folder)
    latents, x_hat = sae.read(sae.normalisation.apply(x))
    x_hat = (sae.target_normalisation or sae.normalisation).invert(x_hat)
    their_latents = theirs.encode(x)
    l0, their_l0 = ((one != 0).sum().item() / len(x) for one in (latents, their_latents))
    measured = {
        "l0_difference": their_l0 - l0,
        "latents_error": _error(their_latents, latents),
        "x_hat_error": _error(theirs(x), x_hat),
    }
    expected = read_config(folder)["sae"]
    loaded = {
        "architecture": theirs.cfg.architecture(),
        "k": getattr(theirs.cfg, "k", None),
    }
    wanted = {
        "architecture": _architecture(expected),
        "k": expected["k"] if expected["kind"] == "topk" else None,
    }
    problems = [
        *(
            f"{name} {loaded[name]}, not {wanted[name]}"
            for name in wanted
            if loaded[name] != wanted[name]
        ),
        *(f"{name} {value:.1e}" for name, value in measured.items() if not abs(value) <= TOLERANCE),
    ]
    return Comparison(
        folder.name, **loaded, rows=len(x), l0=l0, **measured, problems=tuple(problems)
    )


def _architecture(expected: dict[str, Any]) -> str:
    """SAELens' name of a trial's settings."""
    name = ARCHITECTURES[expected["kind"]]
    if expected.get("select") == "magnitude":
        name = "abstopk"
    if expected.get("transcoder"):
        plain = "skip_transcoder" if expected.get("skip") else "transcoder"
        name = plain if name == "standard" else f"{name}_{plain}"
    return name


def _error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main() -> int:
    """Read the command line, compare every trial; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saelens_export", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("trials", nargs="+", type=Path, help="folders, outputs/trials/NAME")
    compared = [compare(folder) for folder in parser.parse_args().trials]
    print(f"| {' | '.join(Comparison._fields)} |")
    print(f"|{' --- |' * len(Comparison._fields)}")
    for one in compared:
        print(f"| {' | '.join(_cell(value) for value in one)} |")
    return 1 if any(one.problems for one in compared) else 0


def _cell(value: object) -> str:
    match value:
        case float():
            return f"{value:.3g}"
        case tuple():
            return "; ".join(value) or "none"
        case _:
            return str(value)


if __name__ == "__main__":
    sys.exit(main())
