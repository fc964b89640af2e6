"""Every sentence about the sweep is a claim, and every claim stands on the page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import Load, Ran, grid

from analysis import report


def made(seed: int) -> list[Ran]:
    """A sweep of random shape, with whatever goes wrong in some."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["sae.k", "sae.l1_alpha"])
    sparsities = [
        2 ** (3 + i) if kind == "sae.k" else 0.5 * 2.0**i for i in range(rng.integers(1, 4))
    ]
    rates = [1e-4 * 3.0**i for i in range(rng.integers(1, 4))]
    seeds, noise = int(rng.integers(1, 4)), float(rng.choice([0.0, 0.02, 0.3]))
    trials = []
    for sparsity in sparsities:
        for lr in rates:
            for s in range(seeds):
                if rng.random() < 0.1:
                    continue
                keys = {kind: sparsity, "train.lr": lr}
                if seeds > 1:
                    keys |= {"train.seed_init": s, "train.seed_data": s}
                fvu = 0.5 * sparsity**-0.2 * np.exp(noise * rng.normal())
                final = {"fvu": fvu, "explained_variance": 1 - fvu, "always_on": 0.0}
                final["l0"] = float(sparsity if kind == "sae.k" else 40 / sparsity)
                final["dead_features"] = float(np.clip(rng.normal(0.02, noise), 0, 1))
                trials.append(Ran(keys, final))
    for trial in trials:
        outcome = rng.choice(
            ["done", "diverged", "failed", "nan", "bad", "queued"], p=[0.8, *[0.04] * 5]
        )
        if outcome in ("diverged", "failed", "queued"):
            trial.status, trial.final, trial.error = str(outcome), {}, "an error"
        elif outcome == "nan":
            trial.final["dead_features"] = float("nan")
        elif outcome == "bad":
            trial.final["fvu"] = 2.0
    return trials


SWEEPS = [
    *(
        pytest.param(made(seed), id=f"random {seed}", marks=pytest.mark.slow if seed > 3 else ())
        for seed in range(12)
    ),
    pytest.param(grid(), id="everything"),
]


@pytest.mark.parametrize("trials", SWEEPS)
def test_every_bullet_is_a_claim_and_every_claim_a_bullet(
    trials: list[Ran], load: Load, tmp_path: Path
) -> None:
    sweep, reader = load(trials)
    page = report.render(sweep, tmp_path / "study", reader.history)
    text = page.read_text() + page.with_name("details.md").read_text()
    claims = json.loads((page.parent / "data" / "claims.json").read_text())["claims"]
    words = [one["words"] for one in claims]
    bullets = re.findall(r"^[-*] (.+)$", text, re.MULTILINE)
    assert bullets == words
    assert len(bullets) >= (3 if trials else 1)
    assert not re.search(r"(?<!is )\b(nan|inf|None)\b", "\n".join(words))
