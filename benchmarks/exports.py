"""Whether other libraries read what we export: a trained trial, loaded by each itself.

    python -m benchmarks.exports outputs/trials/NAME [--format sparsify]

The trial is exported, loaded with the library's own loader and given raw activation rows; our
module is given the same rows normalised. Prints one row per trial and format, exits with 1 where
one is off.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.shards import read_shard
from sae_sweep.errors import BadInput
from sae_sweep.sae import export, load
from sae_sweep.sae.weights import read_config

ROWS = 4096
TOLERANCE = 1e-5
"""Largest difference that is rounding, as a share of the largest value; of l0, absolute."""


class Comparison(NamedTuple):
    """Another library beside us, on the same rows."""

    trial: str
    format: str
    loaded: str
    """What the library made of it."""
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


class Loaded(NamedTuple):
    """Another library's module."""

    name: str
    latents: Callable[[Tensor], Tensor]
    """Raw rows [n d] to activations [n m]."""
    x_hat: Callable[[Tensor], Tensor]
    """Raw rows [n d] to raw reconstructions [n d]."""


def _saelens(place: str) -> Loaded:
    from sae_lens import SAE

    module = SAE.load_from_disk(place)
    return Loaded(module.cfg.architecture(), module.encode, module)


def _sparsify(place: str) -> Loaded:
    from sparsify import SparseCoder

    module = SparseCoder.load_from_disk(place)

    def latents(x: Tensor) -> Tensor:
        found = module.encode(x)
        whole = torch.zeros(len(x), module.num_latents)
        return whole.scatter(1, found.top_indices, found.top_acts)

    return Loaded(f"{module.cfg.activation} {module.cfg.k}", latents, lambda x: module(x).sae_out)


def _dictionary_learning(place: str) -> Loaded:
    from dictionary_learning.utils import load_dictionary

    module, _ = load_dictionary(place, "cpu")
    return Loaded(type(module).__name__, module.encode, module)


def _circuit_tracer(place: str) -> Loaded:
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    (path,) = Path(place).glob("layer_*.safetensors")
    module = load_relu_transcoder(str(path), 0, device=torch.device("cpu"), dtype=torch.float32)
    name = getattr(module.activation_function, "__name__", None)
    return Loaded(name or type(module.activation_function).__name__, module.encode, module)


LOADERS = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
    "circuit-tracer": _circuit_tracer,
}


def raw_rows(folder: Path) -> Tensor:
    """Read the first `ROWS` validation rows of the activations that a trial was trained on."""
    fingerprint = read_config(folder)["activations"]["fingerprint"]
    shards = folder.resolve().parents[1] / "activations" / fingerprint
    names = [one.name for one in read_manifest(shards).shards if one.split == "validation"]
    return torch.cat([read_shard(shards / name).activation for name in names])[:ROWS]


@torch.no_grad()
def compare(folder: Path, layout: str) -> Comparison:
    """Export a trial, load it with the library, and run both on raw rows."""
    with tempfile.TemporaryDirectory() as place:
        export(folder, place, layout)
        theirs = LOADERS[layout](place)
        x, sae = raw_rows(folder), load(folder)
        latents, x_hat = sae.read(sae.normalisation.apply(x))
        x_hat = (sae.target_normalisation or sae.normalisation).invert(x_hat)
        their_latents, their_x_hat = theirs.latents(x), theirs.x_hat(x)
    l0, their_l0 = ((one != 0).sum().item() / len(x) for one in (latents, their_latents))
    measured = {
        "l0_difference": their_l0 - l0,
        "latents_error": _error(their_latents, latents),
        "x_hat_error": _error(their_x_hat, x_hat),
    }
    problems = [
        f"{name} {value:.1e}" for name, value in measured.items() if not abs(value) <= TOLERANCE
    ]
    return Comparison(
        folder.name, layout, theirs.name, rows=len(x), l0=l0, **measured, problems=tuple(problems)
    )


def _error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main() -> int:
    """Read the command line, compare every trial; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exports", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("trials", nargs="+", type=Path, help="folders, outputs/trials/NAME")
    parser.add_argument("--format", choices=LOADERS, action="append", help="default: all")
    options = parser.parse_args()
    compared = []
    for folder in options.trials:
        for layout in options.format or LOADERS:
            try:
                compared.append(compare(folder, layout))
            except BadInput as error:  # the library has nothing like it
                print(f"{folder.name}: {error}", file=sys.stderr)
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
