"""Sweeps in which no setting matters, of the kinds that make a report claim that one does."""

from typing import Any

import numpy as np

from benchmarks.claims_kinds import LEVELS, LR, Kind, Row, grid, measured

FEW = {key: LEVELS[key] for key in ("lr", "k", "aux_coeff")}


def heteroscedastic(rng: np.random.Generator) -> list[Row]:
    """Noise whose sd grows fivefold with k; one seed, or two."""
    seeds = int(rng.integers(1, 3))
    return [
        measured({**row, "seed": s}, 0.02 * (row["k"] / 16) ** 0.8 * rng.normal(), rng)
        for row in grid(LEVELS, rng, rng.choice([1.0, 0.7]))
        for s in range(seeds)
    ]


def noisy_where_few(rng: np.random.Generator) -> list[Row]:
    """The same with half of the runs at the noisiest k, where most of the noise rests on few."""
    rows = [one for one in grid(LEVELS, rng) if one["k"] < 128 or rng.random() < 0.5]
    return [measured(row, 0.02 * (row["k"] / 16) ** 0.8 * rng.normal(), rng) for row in rows]


def noisy_seed(rng: np.random.Generator) -> list[Row]:
    """Three seeds of all configurations, the last five times as noisy as the others."""
    return [
        measured({**row, "seed": s}, 0.02 * (5 if s == 2 else 1) * rng.normal(), rng)
        for row in grid(FEW, rng)
        for s in range(3)
    ]


def heavy_tails(rng: np.random.Generator) -> list[Row]:
    """Student's t of 2 degrees; dead_features 0 in six of ten runs, exponential in the others."""
    rows = [
        measured({**row, "seed": s}, 0.05 * rng.standard_t(2), rng)
        for row in grid(LEVELS, rng)
        for s in range(int(rng.integers(1, 3)))
    ]
    dead = [0.0 if rng.random() < 0.6 else rng.exponential(0.1) for _ in rows]
    return [{**row, "dead_features": f"{one:.4f}"} for row, one in zip(rows, dead, strict=True)]


def two_digits(rng: np.random.Generator) -> list[Row]:
    """Noise of 5 %, written with two digits, so that seeds and configurations share values."""
    rows = [
        measured({**row, "seed": s}, 0.05 * rng.normal(), rng)
        for row in grid(FEW, rng)
        for s in (0, 1)
    ]
    return [{**row, "fvu": f"{float(row['fvu']):.2g}"} for row in rows]


def repeated(rng: np.random.Generator) -> list[Row]:
    """Noise, each row written two or three times."""
    rows = [measured(row, 0.1 * rng.normal(), rng) for row in grid(LEVELS, rng, 0.5)]
    return [row for row in rows for _ in range(int(rng.integers(2, 4)))]


def rerun(rng: np.random.Generator) -> list[Row]:
    """Noise, each run done two or three times with the same seed, equal to five digits."""
    named, rows = bool(rng.integers(2)), []
    for row in grid(LEVELS, rng, 0.5):
        own = 0.1 * rng.normal()
        for _ in range(int(rng.integers(2, 4))):
            point = {"run_id": f"run{len(rows)}", **row, **({"seed": 0} if named else {})}
            rows.append(measured(point, own + 1e-5 * rng.normal(), rng))
            rows[-1]["dead_features"] = f"{0.1 + 0.1 * own:.4f}"
    return rows


def checkpoints(rng: np.random.Generator) -> list[Row]:
    """Noise, four checkpoints of each run, with and without a name of the run."""
    named, rows = bool(rng.integers(2)), []
    for i, row in enumerate(grid(LEVELS, rng, 0.5)):
        own = 0.1 * rng.normal()
        for j, step in enumerate((10_000, 20_000, 40_000, 80_000)):
            point = {**({"run_id": f"run{i}"} if named else {}), **row, "step": step}
            rows.append(measured(point, own - 0.1 * j + 0.01 * rng.normal(), rng))
    return rows


def paired(rng: np.random.Generator) -> list[Row]:
    """Noise, and a larger shift that each of three seeds gives to all configurations."""
    shifts = 0.2 * rng.normal(size=3)
    return [
        measured({**row, "seed": s}, shifts[s] + 0.02 * rng.normal(), rng)
        for row in grid(FEW, rng)
        for s in range(3)
    ]


def unequal_seeds(rng: np.random.Generator) -> list[Row]:
    """The same, with seeds 1 and 2 for one k only."""
    shifts = 0.2 * rng.normal(size=3)
    return [
        measured({**row, "seed": s}, shifts[s] + 0.02 * rng.normal(), rng)
        for row in grid(FEW, rng)
        for s in range(3 if row["k"] == 32 else 1)
    ]


def other_seeds(rng: np.random.Generator) -> list[Row]:
    """The same, with seeds 0 and 1 for two k and 2 and 3 for the third."""
    shifts = 0.2 * rng.normal(size=4)
    return [
        measured({**row, "seed": s}, shifts[s] + 0.02 * rng.normal(), rng)
        for row in grid(FEW, rng)
        for s in ((2, 3) if row["k"] == 128 else (0, 1))
    ]


def winners(rng: np.random.Generator) -> list[Row]:
    """Noise, and two more seeds for the five lowest fvu."""
    rows = [measured({**row, "seed": 0}, 0.05 * rng.normal(), rng) for row in grid(LEVELS, rng)]
    best = sorted(rows, key=lambda row: float(row["fvu"]))[:5]
    again = [{**{key: row[key] for key in LEVELS}, "seed": s} for row in best for s in (1, 2)]
    return [*rows, *(measured(row, 0.05 * rng.normal(), rng) for row in again)]


def adaptive(rng: np.random.Generator) -> list[Row]:
    """Noise, drawn around the best so far after 15 blind draws."""
    rows: list[Row] = []
    values: list[float] = []
    for i in range(60):
        if i < 15 or rng.random() < 0.2:
            lr, aux = 10 ** rng.uniform(-4.5, -2.5), 10 ** rng.uniform(-3, 0)
        else:
            best = rows[int(np.argsort(values)[rng.integers(3)])]
            lr, aux = (best[key] * 10 ** (0.15 * rng.normal()) for key in ("lr", "aux_coeff"))
        values.append(0.1 * rng.normal())
        rows.append(measured({"lr": lr, "aux_coeff": aux}, values[-1], rng))
    return rows


def sorted_search(rng: np.random.Generator) -> list[Row]:
    """The same, written as a table of the best: lowest fvu first."""
    return sorted(adaptive(rng), key=lambda row: float(row["fvu"]))


def blind(rng: np.random.Generator) -> list[Row]:
    """Noise over 40 random draws of five settings."""
    rows: list[dict[str, Any]] = [
        {
            "lr": 10 ** rng.uniform(-4.5, -2.5),
            "aux_coeff": 10 ** rng.uniform(-3, 0),
            "k": int(rng.choice([16, 32, 64])),
            "batch_size": int(rng.choice([1024, 4096])),
            "beta1": round(rng.uniform(0, 0.95), 3),
        }
        for _ in range(40)
    ]
    return [measured(row, 0.1 * rng.normal(), rng) for row in rows]


def eight_settings(rng: np.random.Generator) -> list[Row]:
    """Noise over a quarter of all combinations of eight settings' two levels."""
    levels: dict[str, tuple[Any, ...]] = {
        **{"lr": LR[:2], "k": (16, 32), "aux_coeff": (0, 0.1), "batch_size": (1024, 4096)},
        **{"beta1": (0.0, 0.9), "expansion_factor": (4, 8), "lr_warmup_fraction": (0, 0.1)},
        "beta2": (0.99, 0.999),
    }
    return [measured(row, 0.1 * rng.normal(), rng) for row in grid(levels, rng, 0.25)]


def lost_at_random(rng: np.random.Generator) -> list[Row]:
    """Noise, and every run is NaN with a chance of a sixth."""
    rows = [
        measured({**row, "seed": s}, 0.05 * rng.normal(), rng)
        for row in grid(LEVELS, rng)
        for s in range(2)
    ]
    return [{**row, "fvu": "nan"} if rng.random() < 1 / 6 else row for row in rows]


NOTHING = [
    Kind("variance grows with k", heteroscedastic),
    Kind("variance grows with k, few runs where it is large", noisy_where_few),
    Kind("one of three seeds is noisier", noisy_seed),
    Kind("heavy tails; most dead_features 0", heavy_tails),
    Kind("fvu written with two digits", two_digits),
    Kind("rows written two or three times", repeated),
    Kind("runs done again with the same seed", rerun),
    Kind("checkpoints of one run", checkpoints),
    Kind("seeds that shift all trials", paired),
    Kind("extra seeds for one k, seeds that shift all", unequal_seeds),
    Kind("other seeds for one k, seeds that shift all", other_seeds),
    Kind("more seeds for the lowest fvu", winners),
    Kind("draws around the best so far", adaptive),
    Kind("draws around the best so far, sorted by fvu", sorted_search),
    Kind("random draws of five settings", blind),
    Kind("a quarter of the grid of eight settings", eight_settings),
    Kind("runs lost at random", lost_at_random),
]
