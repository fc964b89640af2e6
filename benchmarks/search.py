"""Trials until L0 is within a tenth of its target: target search beside Optuna's samplers.

    python -m benchmarks.search train       # 25 l1_alpha a curve, real activations; once
    python -m benchmarks.search simulate    # every method on the measured curves
    python -m benchmarks.search verify      # target search with real trainings, cold

A case is a layer, a width and a target. `simulate` lets each search see, in place of a training,
the measured curve at the l1_alpha that it asks for, interpolated (PCHIP on logarithmic scales),
with noise as between seeds. Every run is a line of results/search.jsonl, written when it ends; an
interrupted command goes on where it was. The table stands in benchmarks/README.md.
"""

import argparse
import csv
import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks import search_table
from sae_sweep.config import (
    ActivationsConfig,
    SearchConfig,
    Source,
    SweepConfig,
    Trial,
    TrialConfig,
    resolve,
    validate,
)
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Reader, default_url
from sae_sweep.search import Point, SearchContext, Told, build_search

HERE = Path(__file__).parent
CURVES = HERE / "results" / "response_curves.csv"
RUNS = HERE / "results" / "search.jsonl"
OUTPUTS = Path("outputs") / "search_benchmark"

LAYERS, WIDTHS, TARGETS = (1, 3, 5), (768, 1536), (0.05, 0.02)
ALPHAS = tuple(float(f"{10 ** (-2 + i / 6):.6g}") for i in range(25))
AXIS = (0.01, 100.0)
D = 384
BUDGET = 60
SEED_NOISE = 0.01
"""Standard deviation of ln L0 in a simulated trial."""

SETTINGS = [
    "sae=l1",
    "executor=inline",
    "activations.train_tokens=65536",
    "activations.validation_tokens=8192",
    "train.steps=384",
    "train.lr=1e-3",
    "store.weights=none",
]


class Case(NamedTuple):
    """What is sought, and where."""

    layer: int
    n_latents: int
    target: float


CASES = [Case(*one) for one in itertools.product(LAYERS, WIDTHS, TARGETS)]


class Trained(NamedTuple):
    """One simulated training."""

    l1_alpha: float
    l0_fraction: float


Response = Callable[[float], float]
Method = Callable[[Case, Response, int], Iterator[Trained]]


def train(outputs: Path) -> None:
    """Train every curve and write it down."""
    axes = [
        f"activations.layer={[*LAYERS]}",
        f"sae.n_latents={[*WIDTHS]}",
        f"sae.l1_alpha={[*ALPHAS]}",
    ]
    words = [*SETTINGS, *(axis.replace(" ", "") for axis in axes), "sweep.name=response_curves"]
    subprocess.run([sys.executable, "-m", "sae_sweep", *words, f"outputs={outputs}"], check=True)
    with Reader(default_url(outputs)) as reader:
        records = [member.trial for member in reader.sweep("response_curves").members]
    with CURVES.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["layer", "n_latents", "l1_alpha", "l0_fraction", "fvu", "seconds"])
        for one in records:
            sae = one.config["sae"]
            row = [one.config["activations"]["layer"], sae["n_latents"], sae["l1_alpha"]]
            found = [f"{one.final[name]:.6g}" for name in ("l0_fraction", "fvu")]
            writer.writerow([*row, *found, f"{one.seconds:.3g}"])


def read_curves() -> dict[tuple[int, int], PchipInterpolator]:
    """Logarithm of L0 over that of l1_alpha, by layer and width."""
    points: dict[tuple[int, int], list[tuple[float, float]]] = {}
    with CURVES.open(newline="") as file:
        for row in csv.DictReader(file):
            key = int(row["layer"]), int(row["n_latents"])
            point = math.log(float(row["l1_alpha"])), math.log(float(row["l0_fraction"]))
            points.setdefault(key, []).append(point)
    return {key: PchipInterpolator(*zip(*sorted(one), strict=True)) for key, one in points.items()}


def simulated(curves: dict[tuple[int, int], PchipInterpolator], case: Case, seed: int) -> Response:
    """Trainings of a case with one seed."""
    curve = curves[case.layer, case.n_latents]
    return partial(respond, curve, f"{case.layer}|{case.n_latents}|{seed}")


def respond(curve: PchipInterpolator, name: str, l1_alpha: float) -> float:
    """L0 of a simulated training: the same for the same name and l1_alpha."""
    digest = hashlib.sha256(f"{name}|{l1_alpha:.6g}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(0.0, SEED_NOISE)
    return math.exp(float(curve(math.log(l1_alpha))) + noise)


def searched(
    search: dict[str, object], past: list[TrialRecord], case: Case, response: Response, seed: int
) -> Iterator[Trained]:
    """What one of the project's own searches asks for."""
    base = {"activations": {"synthetic": {}, "d": D}, "sae": {"kind": "l1"}, "train": {}}
    base["sae"] |= {"n_latents": case.n_latents}
    sweep = SweepConfig(space={"sae.l1_alpha": {"loguniform": [*AXIS]}})
    config = SearchConfig(target=case.target, trials=BUDGET, seed=seed, **search)
    around = SearchContext(partial(make_trial, case.layer), lambda: past)
    asks = build_search(base, sweep, config, around)
    while points := asks.ask(1):
        [point] = points
        l1_alpha = point.assignment["sae.l1_alpha"]
        found = response(l1_alpha)
        yield Trained(l1_alpha, found)
        metrics = {"l0_fraction": found, "n_latents": float(case.n_latents)}
        asks.tell(point.assignment, Told("done", metrics, {}))


def make_trial(layer: int, point: Point) -> Trial:
    """Resolve a point as if the layer's activations were there."""
    settings = ActivationsConfig(synthetic={}, d=D)
    source = Source(f"{layer:012d}", D, 65_536, {"layer": layer})
    config = validate(TrialConfig, {**point.settings, "activations": settings.model_dump()})
    return resolve(config, source)


def published_rule(case: Case, response: Response, seed: int) -> Iterator[Trained]:
    """The rule of a published guide, as printed: near the target it moves l1_alpha away."""
    random = np.random.default_rng(seed)
    l1_alpha = math.exp(random.uniform(*np.log(AXIS)))
    for _ in range(BUDGET):
        found = response(l1_alpha)
        yield Trained(l1_alpha, found)
        ratio = found / case.target
        factor = 1 / ratio if 0.5 < ratio < 2 else ratio
        l1_alpha = min(max(l1_alpha * factor, AXIS[0]), AXIS[1])


def target_search(
    others: Callable[[Case], list[Case]], case: Case, response: Response, seed: int
) -> Iterator[Trained]:
    """Target search with what cold searches for other cases have trained."""
    past = [record(other, one) for other in others(case) for one in cold(other, seed)]
    yield from searched({"kind": "target"}, past, case, response, seed)


@cache
def cold(case: Case, seed: int) -> list[Trained]:
    """What target search trains for a case without history."""
    told = simulated(read_curves(), case, seed)
    return until_hit(case, searched({"kind": "target"}, [], case, told, seed))


def record(case: Case, one: Trained) -> TrialRecord:
    """A simulated training as the store would hold it."""
    sae = {"kind": "l1", "n_latents": case.n_latents, "l1_alpha": one.l1_alpha}
    point = Point({}, {"activations": {}, "sae": sae, "train": {}})
    trial = make_trial(case.layer, point)
    final = {"l0_fraction": one.l0_fraction}
    return TrialRecord(trial.uid, trial.label, "done", trial.record, final)


def until_hit(case: Case, trained: Iterator[Trained]) -> list[Trained]:
    """The trainings up to the first within a tenth of the target, or all of them."""
    seen = []
    for one in trained:
        seen.append(one)
        if abs(one.l0_fraction / case.target - 1) <= 0.1:
            break
    return seen


def other_width(case: Case) -> list[Case]:
    """The cases of the same layer at the other width."""
    return [one for one in CASES if one.layer == case.layer and one.n_latents != case.n_latents]


def rest_of_layer(case: Case) -> list[Case]:
    """All other cases of the layer."""
    return [one for one in CASES if one.layer == case.layer and one != case]


METHODS: dict[str, Method] = {
    "target search, cold": partial(target_search, lambda _: []),
    "target search, history of the other width": partial(target_search, other_width),
    "target search, history of the layer's three other cases": partial(
        target_search, rest_of_layer
    ),
    "Optuna TPE": partial(searched, {"kind": "optuna", "sampler": "tpe"}, []),
    "Optuna GP": partial(searched, {"kind": "optuna", "sampler": "gp"}, []),
    "random": partial(searched, {"kind": "optuna", "sampler": "random"}, []),
    "published rule": published_rule,
}


def simulate(names: list[str], seeds: int) -> None:
    """Run what is missing, and renew the table."""
    curves = read_curves()
    done = {(one["method"], *one["case"], one["seed"]) for one in search_table.read(RUNS)}
    for name, case, seed in itertools.product(names, CASES, range(seeds)):
        if (name, *case, seed) in done:
            continue
        told = simulated(curves, case, seed)
        seen = until_hit(case, METHODS[name](case, told, seed))
        hit = abs(seen[-1].l0_fraction / case.target - 1) <= 0.1
        line = {"method": name, "case": [*case], "seed": seed, "trials": len(seen), "hit": hit}
        with RUNS.open("a") as file:
            file.write(json.dumps(line) + "\n")
    search_table.write(RUNS, list(METHODS), BUDGET)


def verify(outputs: Path) -> None:
    """Let target search train for real, without history, and note how it ended."""
    done = {tuple(one["case"]) for one in search_table.read(RUNS) if one["method"] == "trained"}
    for case in CASES:
        if tuple(case) in done:
            continue
        name = f"verify_{case.layer}_{case.n_latents}_{case.target:g}"
        words = [
            *SETTINGS,
            "search=target",
            "search.history=false",
            f"search.target={case.target}",
            f"sae.l1_alpha={{loguniform:[{AXIS[0]},{AXIS[1]}]}}",
            f"activations.layer={case.layer}",
            f"sae.n_latents={case.n_latents}",
            f"sweep.name={name}",
            f"outputs={outputs}",
        ]
        subprocess.run([sys.executable, "-m", "sae_sweep", *words], check=True)
        with Reader(default_url(outputs)) as reader:
            finals = [member.trial.final for member in reader.sweep(name).members]
        l0 = [float(final["l0_fraction"] or 0.0) for final in finals]
        best = min(l0, key=lambda one: abs(one / case.target - 1))
        hit = abs(best / case.target - 1) <= 0.1
        line = {"method": "trained", "case": [*case], "trials": len(l0), "hit": hit, "l0": best}
        with RUNS.open("a") as file:
            file.write(json.dumps({**line, "seed": 0}) + "\n")
    search_table.write(RUNS, list(METHODS), BUDGET)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("command", choices=["train", "simulate", "verify"])
    parser.add_argument("--outputs", type=Path, default=OUTPUTS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--method", action="append", choices=list(METHODS), metavar="METHOD")
    options = parser.parse_args()
    match options.command:
        case "train":
            train(options.outputs)
        case "simulate":
            simulate(options.method or list(METHODS), options.seeds)
        case _:
            verify(options.outputs)


if __name__ == "__main__":
    main()
