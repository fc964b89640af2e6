"""The sweep `topk_12` as Ray Tune is usually used: a Tune trial a configuration, trained eagerly.

    python -m benchmarks.tune_each

Each trial takes a core, opens the activations, trains with the reference operations under autograd
and reports FVU on the validation rows. With `--nothing` two trials import torch and end: what Ray
Tune takes of a sweep, whatever is trained. `benchmarks.sweep` times both.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality import ACTIVATIONS, CELLS, fvu, load_rows, make_trial
from benchmarks.references import eager


def nothing(_: dict[str, Any]) -> None:
    """End at once; this module has imported torch."""
    from ray import tune

    tune.report({"fvu": 0.0})


def train(config: dict[str, Any]) -> None:
    """Train a configuration and report."""
    from ray import tune

    torch.set_num_threads(1)
    source, activations = load_rows(ACTIVATIONS, Path(config["outputs"]))
    trial = make_trial(source, tuple(config["cell"]), lr=1e-3, seed=0)
    autoencoder = eager(trial, activations)
    x = activations.validation_rows(0, activations.n_validation)
    with torch.no_grad():
        tune.report({"fvu": fvu(x, autoencoder(x).x_hat)})


def main() -> None:
    """Run all configurations."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune_each", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--nothing", action="store_true", help="two trials that do not train")
    arguments = parser.parse_args()
    import ray
    from ray import tune

    ray.init(include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        cells = [list(cell) for cell in CELLS]
        if arguments.nothing:
            cells = cells[:2]
        space = {"cell": tune.grid_search(cells), "outputs": str(arguments.outputs.absolute())}
        tuner = tune.Tuner(
            tune.with_resources(nothing if arguments.nothing else train, {"CPU": 1}),
            param_space=space,
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        assert not results.errors, results.errors
        best = results.get_best_result("fvu", "min")
        print(f"{len(results)} trials, lowest FVU {best.metrics['fvu']:.4f}")


if __name__ == "__main__":
    main()
