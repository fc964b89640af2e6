"""Sweeps that differ in kind, width, sparsity and layer, with figures from plain formulas."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from made_sweeps import Ran

GRID = Path(__file__).parents[1] / "data" / "topk_grid.csv"
GROUPS = {"en": 3000, "de": 2000, "fr|<b>": 1500, "rare": 50}


def published_grid() -> list[Ran]:
    """The published 4 x 3 TopK grid; its activations by a formula of k alone."""
    return [
        Ran(
            {"sae.k": int(row["k"]), "sae.n_latents": int(row["d_sae"])},
            {
                "fvu": 1 - row["explained_variance"],
                "explained_variance": row["explained_variance"],
                "dead_features": row["death_percent"] / 100,
                "rare_features": row["death_percent"] / 80,
                "l0": float(row["k"]),
                "always_on": 0.0,
                "diversity": 10.0,
                "mean_activation": 40 / row["k"] ** 0.6 + row["d_sae"] / 1e4,
                "max_activation": 100 / row["k"] ** 0.4,
            },
            curve=[2 / row["k"], 1 / row["k"]],
        )
        for _, row in pd.read_csv(GRID).iterrows()
    ]


def two_kinds() -> list[Ran]:
    """TopK and L1 of two widths: fvu is a power of l0, times 1.3 for L1."""
    trials = []
    for m, k in itertools.product((256, 512), (4, 8, 16, 32)):
        fvu = 0.9 * k**-0.4 * (256 / m) ** 0.2
        trials.append(
            Ran({"sae.kind": "topk", "sae.n_latents": m, "sae.k": k}, _metrics(fvu, k, m))
        )
    for m, alpha in itertools.product((256, 512), (1.0, 2.0, 4.0, 8.0, 16.0)):
        l0 = 60 * alpha**-0.9
        fvu = 1.3 * 0.9 * l0**-0.4 * (256 / m) ** 0.2
        assignment = {"sae.kind": "l1", "sae.n_latents": m, "sae.l1_alpha": alpha, "sae.k": None}
        trials.append(Ran(assignment, _metrics(fvu, l0, m)))
    return trials


def _metrics(fvu: float, l0: float, m: int) -> dict[str, float]:
    dead = 0.1 + 0.0001 * m - 0.001 * l0
    return {"fvu": fvu, "l0": float(l0), "l0_fraction": l0 / m, "dead_features": dead}


def layers() -> list[Ran]:
    """Three layers of a model, two k each."""
    return [
        Ran(
            {"activations.layer": layer, "sae.k": k},
            {
                "fvu": fvu * 8 / k,
                "l0": float(k),
                "dead_features": 0.1,
                "always_on": float(len(ids)),
                "diversity": 10.0,
            },
            always_on_ids=ids,
        )
        for (layer, fvu, ids), k in itertools.product(
            [(4, 0.1, (25,)), (16, 0.35, ()), (28, 0.6, (134, 25))], (8, 32)
        )
    ]


def write_tables(outputs: Path, trials: list[Ran], n_latents: int = 40) -> None:
    """Fill trials' folders: latents 0 to 4 belong to en, 5 to 7 to de, 8 is dead."""
    for seed, trial in enumerate(trials):
        random = np.random.default_rng(seed)
        rates = np.repeat(random.uniform(0.02, 0.2, (n_latents, 1)), len(GROUPS), axis=1)
        rates[:5, 1:] *= 0.01
        rates[5:8, [0, 2, 3]] = 0
        rates[8] = 0
        sizes = np.array(list(GROUPS.values()))
        fired = random.binomial(sizes, rates)
        folder = outputs / "trials" / trial.record.folder
        folder.mkdir(parents=True)
        table = {"id": range(n_latents), "frequency": fired.sum(axis=1) / sizes.sum()}
        table["max_activation"] = np.ones(n_latents)
        table |= {
            f"frequency_{name}": fired[:, i] / n for i, (name, n) in enumerate(GROUPS.items())
        }
        pd.DataFrame(table).to_parquet(folder / "latents.parquet")
        pd.DataFrame(
            {
                "group": list(GROUPS),
                "tokens": sizes,
                "fvu": random.uniform(0.1, 0.5, len(sizes)),
                "l0": (fired / sizes).sum(axis=0),
                "dead_features": (fired == 0).mean(axis=0),
            }
        ).to_parquet(folder / "groups.parquet")


def l1_sweep(widths: tuple[int, ...] = (256, 512, 1024), target: float = 0.05) -> list[Ran]:
    """Five l1_alpha a width: l0_fraction meets the target at 4 (m / 256)^-0.3, with slope -0.9."""
    trials = []
    for m, alpha in itertools.product(widths, (1.0, 2.0, 4.0, 8.0, 16.0)):
        share = target * (alpha / (4.0 * (m / 256) ** -0.3)) ** -0.9
        assignment = {"sae.kind": "l1", "sae.n_latents": m, "sae.l1_alpha": alpha, "sae.k": None}
        trials.append(
            Ran(assignment, _metrics(0.5 * (share * m) ** -0.2 * (256 / m) ** 0.1, share * m, m))
        )
    return trials


def published_jobs() -> list[Ran]:
    """The four published L1 jobs; what was not published is made up, and finite."""
    jobs = pd.read_csv(GRID.with_name("l1_jobs.csv"))
    return [
        Ran(
            {
                "sae.kind": "l1",
                "sae.n_latents": int(job["latent_dim"]),
                "sae.l1_alpha": float(job["l1_alpha"]),
                "sae.k": None,
            },
            {"fvu": 0.5, "l0": job["l0_fraction"] * job["latent_dim"], "dead_features": 0.1}
            | {"l0_fraction": float(job["l0_fraction"])},
        )
        for _, job in jobs.iterrows()
    ]
