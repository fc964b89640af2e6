"""Matched cosines between the dictionaries of seeds."""

import dataclasses
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, write_store
from safetensors.numpy import save_file

from analysis.context import ReportContext
from analysis.page.blocks import markdown
from analysis.study.table import Study, load
from analysis.topics import stability as topic
from analysis.topics.stability import Stability, matched
from sae_sweep.records.store import Reader

M, D = 128, 16
PARTS = (slice(None), slice(0, 28), slice(28, 78), slice(78, None))


def unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def study(folder: Path, dictionaries: list[np.ndarray | None]) -> Study:
    trials = [
        Ran(
            {"sae.k": k},
            {"fvu": 0.5 / k, "l0": float(k), "dead_features": 0.1},
            settings={"train.seed_init": seed, "train.seed_data": seed},
        )
        for k in (4, 8)
        for seed in range(len(dictionaries))
    ]
    with Reader(write_store(folder, trials)) as reader:
        made = load(reader.sweep())
    for trial, rows in zip(made.records, dictionaries * 2, strict=True):
        if rows is not None:
            place = folder / "trials" / trial.folder
            place.mkdir(parents=True)
            save_file({"w_dec": rows}, place / "sae.safetensors")
            frequency = [0.0] * 28 + [0.0005] * 50 + [0.05] * 50
            pd.DataFrame({"id": range(M), "frequency": frequency}).to_parquet(
                place / "latents.parquet"
            )
    return dataclasses.replace(made, trials_folder=folder / "trials")


def test_the_assignment_is_the_best_of_all() -> None:
    a, b = unit(6, 0), unit(6, 1)
    cosine = a @ b.T
    best = max(sum(cosine[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    assert matched(a, b).sum() == pytest.approx(best, abs=1e-5)


def test_mutual_neighbours_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    a = unit(300, 0)
    order = np.random.default_rng(1).permutation(300)
    monkeypatch.setattr(topic, "EXACT", 100)
    assert matched(a, a[order]) == pytest.approx(np.ones(300), abs=1e-5)
    monkeypatch.setattr(topic, "EXACT", 1)
    assert matched(np.stack([a[0], a[0] + 0.5 * a[1]]), np.stack([a[0], -a[0]]))[1] == 0


def test_a_permuted_dictionary_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    rows = unit(M, 0)
    permuted = rows[np.random.default_rng(1).permutation(M)]
    other = rows.copy()
    other[78:] = unit(50, 9)  # the frequent ones
    made = study(tmp_path, [rows, permuted, other])
    blocks = topic.stability(ReportContext(made))
    claims = [one for one in blocks if isinstance(one, Stability)]
    assert {(one.pairs, one.of) for one in claims} == {(3, 3)}
    assert all(one.highest == pytest.approx(1, abs=1e-5) for one in claims)
    assert all(one.lowest < 0.9 for one in claims)
    assert "over 3 of 3 pairs of seeds" in claims[0].words
    (line,) = {one.split("|", 4)[4] for one in markdown(blocks).splitlines() if "| exact |" in one}
    mean, dead, rare, middle, frequent = (one.strip() for one in line.strip(" |").split("|"))
    pairs = [matched(a, b) for a, b in [(rows, permuted), (rows, other), (permuted, other)]]
    expected = [np.mean([one[part].mean() for one in pairs]) for part in PARTS]
    assert [float(one) for one in (mean, dead, rare, frequent)] == pytest.approx(expected, abs=1e-4)
    assert middle == "-", "none fires on 0.1 to 1 % of the tokens"
    assert float(frequent) < float(dead)


def test_seeds_without_weights_are_not_compared(tmp_path: Path) -> None:
    assert topic.stability(ReportContext(study(tmp_path, [unit(M, 0), None]))) == []
