"""How well known features are found: ours beside SAELens, scored by SAELens.

    python -m benchmarks.ground_truth

Rows come from SAELens' synthetic model, with correlated features in a hierarchy. Every trainer sees
the same rows in the same batches once. SAELens' own evaluation scores what they leave, ours through
our export: F1 of latents as detectors of features, MCC and uniqueness of decoder rows, dead ones.
Our own metrics of the same rows have to be equal to SAELens' to 1e-4.
Each learning rate is one line of the results file; the table has each trainer's best F1.

    python -m benchmarks.ground_truth --record tests/data/ground_truth.safetensors

Writes what SAELens finds for one small dictionary, with all that it found it from, for our tests.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks import readme, trainers
from benchmarks.quality import Results, version
from sae_sweep.config import (
    ActivationsConfig,
    Source,
    SyntheticConfig,
    TrainConfig,
    Trial,
    TrialConfig,
    resolve,
)
from sae_sweep.config.sae import ARCHITECTURES
from sae_sweep.sae import export
from sae_sweep.train import Engine
from sae_sweep.train.ground_truth import GroundTruth

HERE = Path(__file__).parent
LRS = (3e-3, 6e-3, 1.2e-2)
BATCH = 1024
MODEL_SEED = 20_260_216
"""Not a trial's: with an equal seed the first decoder rows are the true directions."""
EVALUATED = 50_000
"""Rows of which SAELens takes its scores."""
PER_BATCH = 5_000
EQUAL = 1e-4
"""Our metrics differ from SAELens' by less."""
RECORDED = 400
"""Rows of the small dictionary that is recorded."""


class Size(NamedTuple):
    """A synthetic model, and the dictionary that is to find its features."""

    name: str
    d: int
    features: int
    n_latents: int
    rows: int
    l0: int
    """Of the SAEs: about the features that are active in a row."""
    rarest: float
    """Probability of the rarest feature's firing, given its parent's; of the most common 0.6."""


SIZES = (
    Size("small", 128, 1024, 512, 262_144, 18, 0.05),
    Size("large", 512, 4096, 2048, 524_288, 26, 0.02),
)
SMALL = Size("small", 16, 48, 40, 40_960, 2, 0.01)
"""What is recorded for the tests."""
KINDS = ("topk", "batchtopk", "matryoshka", "jumprelu")
TRAINERS = ("sae-sweep", "sae-lens")


class Task(NamedTuple):
    """All that defines one training and its score."""

    size: str
    kind: str
    trainer: str
    version: str
    lr: float
    seed: int


class Rows:
    """Normalised rows in memory, as the engine takes them."""

    def __init__(self, rows: Tensor, n_validation: int) -> None:
        self.n_train, self.n_validation = len(rows) - n_validation, n_validation
        self.mean = rows[: self.n_train].mean(dim=0)
        centred = rows - self.mean
        self.d = rows.shape[1]
        self.scale = (self.d**0.5 / centred[: self.n_train].norm(dim=1).mean()).item()
        self._rows = centred * self.scale
        self.window_rows, self.fingerprint = self.n_train, "synthetic"
        self.group_names: list[str] = []

    def train_rows(self, indices: Tensor) -> Tensor:
        """Rows by number."""
        return self._rows[indices]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        """Held-out rows."""
        return self._rows[self.n_train :][start:stop].clone()

    def validation_groups(self, start: int, stop: int) -> Tensor:
        """No groups."""
        return torch.zeros(stop - start, dtype=torch.int16)


class Normalised:
    """A feature dictionary whose rows are normalised as those of training were."""

    def __init__(self, dictionary: Any, rows: Rows) -> None:
        self._dictionary, self._rows = dictionary, rows
        self.feature_vectors = dictionary.feature_vectors

    def __call__(self, features: Tensor) -> Tensor:
        """Rows of some features' activations."""
        return (self._dictionary(features) - self._rows.mean) * self._rows.scale


def synthetic_model(size: Size) -> Any:
    """Make SAELens' synthetic model of a size: a forest of features, correlated at low rank."""
    from sae_lens.synthetic import synthetic_model as synthetic
    from sae_lens.synthetic.firing_probabilities import ZipfianFiringProbabilityConfig
    from sae_lens.synthetic.hierarchy import HierarchyConfig

    return synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=size.features,
            hidden_dim=size.d,
            firing_probability=ZipfianFiringProbabilityConfig(max_prob=0.6, min_prob=size.rarest),
            hierarchy=HierarchyConfig(
                total_root_nodes=size.features // 4, branching_factor=4, max_depth=2
            ),
            correlation=synthetic.LowRankCorrelationConfig(rank=16, correlation_scale=0.1, seed=0),
            seed=MODEL_SEED,
        )
    )


def settle(size: Size, kind: str, lr: float, seed: int) -> Trial:
    """Settle one training; no auxiliary loss on dead latents where k sets L0."""
    chosen: dict[str, Any] = {"n_latents": size.n_latents}
    if kind == "jumprelu":
        chosen["target_l0"] = size.l0
    else:
        chosen |= {"k": size.l0, "aux_coeff": 0}
    train = TrainConfig(
        lr=lr, batch_size=BATCH, epochs=1, seed_init=seed, seed_data=seed, report_every=10**9
    )
    config = TrialConfig(
        activations=ActivationsConfig(synthetic=SyntheticConfig(), d=size.d),
        sae=ARCHITECTURES[kind](**chosen),
        train=train,
    )
    return resolve(config, Source("synthetic", size.d, size.rows, {}))


def ours(trial: Trial, rows: Rows) -> Any:
    """Train in our engine, export, and load with SAELens; it takes raw rows."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as place:
        engine = Engine(rows, Path(folder))
        engine.add(trial)
        *_, outcome = engine.advance(trial.steps)
        assert outcome.status == "done", outcome.error
        export(Path(folder) / trial.folder, place)
        return SAE.load_from_disk(place)


def score(task: Task, size: Size, model: Any, rows: Rows) -> dict[str, float]:
    """Train once, and let SAELens score it."""
    from sae_lens.synthetic.evals import eval_sae_on_synthetic_data

    trial = settle(size, task.kind, task.lr, task.seed)
    make: Callable[[Trial, Rows], Any] = ours
    dictionary = model.feature_dict
    if task.trainer == "sae-lens":
        make, dictionary = trainers.saelens_module, Normalised(dictionary, rows)
    sae = make(trial, rows)
    torch.manual_seed(1)
    found = eval_sae_on_synthetic_data(
        sae, dictionary, model.activation_generator, EVALUATED, batch_size=PER_BATCH
    )
    theirs = {
        "f1": found.classification.f1_score,
        "precision": found.classification.precision,
        "recall": found.classification.recall,
        "mcc": found.mcc,
        "uniqueness": found.uniqueness,
        "true_l0": found.true_l0,
    }
    require_equal(again(sae, dictionary, model.activation_generator), theirs)
    return {
        **theirs,
        "dead": found.dead_latents,
        "l0": found.sae_l0,
        "explained_variance": found.explained_variance,
    }


@torch.no_grad()
def again(sae: Any, dictionary: Any, generator: Any) -> dict[str, float]:
    """Our metrics of the rows that SAELens has just drawn."""
    torch.manual_seed(1)
    truth = GroundTruth(sae.W_dec, dictionary.feature_vectors)
    for _ in range(EVALUATED // PER_BATCH):
        features = generator.sample(PER_BATCH)
        truth.add(sae.encode(dictionary(features)), features > 0)
    return truth.metrics()


def require_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Compare our metrics with SAELens'."""
    for name, value in theirs.items():
        assert abs(ours[name] - value) < EQUAL, f"{name}: ours {ours[name]}, SAELens' {value}"


@torch.no_grad()
def record(path: Path) -> None:
    """Write a small trained dictionary, its latents and the truth, with what SAELens says of it."""
    from sae_lens.synthetic import evals

    model = synthetic_model(SMALL)
    torch.manual_seed(0)
    rows = Rows(torch.cat([model.sample(4096) for _ in range(11)]), 4096)
    with torch.enable_grad():
        sae = ours(settle(SMALL, "topk", 1e-2, 0), rows)
    features = model.activation_generator.sample(RECORDED)
    latents = sae.encode(model.feature_dict(features))
    directions = model.feature_dict.feature_vectors
    detects = evals.compute_classification_metrics(latents, features, sae.W_dec, directions)
    theirs = {
        "f1": detects.f1_score,
        "precision": detects.precision,
        "recall": detects.recall,
        "mcc": evals.mean_correlation_coefficient(sae.W_dec, directions),
        "uniqueness": evals.feature_uniqueness(sae.W_dec, directions),
        "true_l0": (features > 0).double().sum(dim=1).mean().item(),
    }
    tensors = {
        "w_dec": sae.W_dec.contiguous(),
        "features": directions.contiguous(),
        "latents": latents.contiguous(),
        "truth": features > 0,
    }
    told = {"metrics": json.dumps(theirs), "by": f"sae-lens {version('sae-lens')}"}
    path.write_bytes(save(tensors, told))
    print(json.dumps(theirs))


def render(lines: list[dict[str, Any]]) -> str:
    """Write the table: each trainer's best learning rate by F1."""
    header = ["features", "kind", "trainer", "lr", "F1", "MCC", "uniqueness", "dead", "L0"]
    header += ["true L0", "explained variance", "best MCC of all rates"]
    table = [header, ["---"] * len(header)]
    for size in SIZES:
        for kind in KINDS:
            for trainer in TRAINERS:
                tried = [
                    one
                    for one in lines
                    if (one["size"], one["kind"], one["trainer"]) == (size.name, kind, trainer)
                ]
                if not tried:
                    continue
                best = max(tried, key=lambda one: one["f1"])
                table.append(
                    [
                        *(f"{size.features} in {size.d}, {size.n_latents} latents", kind, trainer),
                        f"{best['lr']:g}",
                        *(f"{best[name]:.3f}" for name in ("f1", "mcc", "uniqueness")),
                        *(f"{best['dead']} of {size.n_latents}", f"{best['l0']:.1f}"),
                        f"{best['true_l0']:.1f}",
                        f"{best['explained_variance']:.3f}",
                        f"{max(one['mcc'] for one in tried):.3f}",
                    ]
                )
    dates = ", ".join(sorted({one["date"] for one in lines}))
    versions = ", ".join(sorted({f"{one['trainer']} {one['version']}" for one in lines}))
    head = f"`python -m benchmarks.ground_truth`, {dates}: one seed; {versions}."
    return head + "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table)


def main() -> None:
    """Read the command line, train what is missing, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ground_truth", description=(__doc__ or "").partition("\n")[0]
    )
    names = [size.name for size in SIZES]
    parser.add_argument("--sizes", choices=names, nargs="+", default=names)
    parser.add_argument("--lrs", type=float, nargs="+", default=list(LRS))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "ground_truth.jsonl")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    parser.add_argument("--record", type=Path, help="write this file for the tests, nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.record is not None:
        record(arguments.record)
        return
    results = Results(arguments.results)
    for size in (size for size in SIZES if size.name in arguments.sizes):
        model = synthetic_model(size)
        torch.manual_seed(0)
        with torch.no_grad():
            parts = [model.sample(8192) for _ in range(size.rows // 8192 + 1)]
        rows = Rows(torch.cat(parts)[: size.rows + 4096], 4096)
        for lr in arguments.lrs:
            for kind in KINDS:
                for trainer in TRAINERS:
                    task = Task(size.name, kind, trainer, version(trainer), lr, 0)
                    if results.of(task) is None:
                        found = score(task, size, model, rows)
                        date = datetime.now(UTC).date().isoformat()
                        results.add({**task._asdict(), **found, "date": date})
                        print(json.dumps({**task._asdict(), **found}), flush=True)
            readme.replace(arguments.readme, "ground-truth", render(results.all))


if __name__ == "__main__":
    main()
