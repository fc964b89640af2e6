"""Activations in memory with a known dictionary, and trials on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_sweep.config import (
    ARCHITECTURES,
    ActivationsConfig,
    Source,
    SyntheticConfig,
    Trial,
    TrialConfig,
    resolve,
)
from sae_sweep.records import Outcome, Row
from sae_sweep.train import Engine, NoRoom

D, N_FEATURES, N_ACTIVE = 16, 24, 2


class MemoryActivations:
    """Sums of a few random unit directions."""

    def __init__(self, n_train: int = 2048, n_validation: int = 600, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.dictionary = torch.nn.functional.normalize(
            torch.randn(N_FEATURES, D, generator=generator), dim=1
        )
        n = n_train + n_validation
        chosen = torch.rand(n, N_FEATURES, generator=generator).topk(N_ACTIVE).indices
        sizes = torch.zeros(n, N_FEATURES).scatter(
            1, chosen, 0.5 + torch.rand(n, N_ACTIVE, generator=generator)
        )
        raw = sizes @ self.dictionary
        self.mean = raw[:n_train].mean(dim=0)
        self.scale = (D**0.5 / (raw[:n_train] - self.mean).norm(dim=1).mean()).item()
        rows = (raw - self.mean) * self.scale
        self.train, self.validation = rows[:n_train], rows[n_train:]
        self.d, self.fingerprint = D, "memory"
        self.n_train, self.n_validation = n_train, n_validation
        self.window_rows = n_train
        self.group_names: list[str] = []

    def train_rows(self, indices: Tensor) -> Tensor:
        return self.train[indices]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        return self.validation[start:stop].clone()

    def validation_groups(self, start: int, stop: int) -> Tensor:
        return (torch.arange(start, stop) % max(1, len(self.group_names))).to(torch.int16)


class Run:
    """An engine, and what it said."""

    def __init__(self, activations: object, folder: Path, device: str = "cpu") -> None:
        self.engine = Engine(activations, folder, device)
        self.folder = folder
        self.rows: dict[str, list[Row]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.left: list[NoRoom] = []

    def advance(self, steps: int) -> None:
        for event in self.engine.advance(steps):
            if isinstance(event, Row):
                self.rows.setdefault(event.uid, []).append(event)
            elif isinstance(event, NoRoom):
                self.left.append(event)
            else:
                self.outcomes[event.uid] = event

    def finish(self, steps: int = 1000) -> "Run":
        while self.engine.uids:
            self.advance(steps)
        return self

    def weights(self, trial: Trial) -> bytes:
        return (self.folder / trial.folder / "sae.safetensors").read_bytes()


@pytest.fixture
def device() -> str:
    """Where engines train."""
    return "cpu"


@pytest.fixture
def start(activations: MemoryActivations, tmp_path: Path, device: str) -> Callable[..., Run]:
    """An engine without members: start(folder's name)."""
    return lambda place: Run(activations, tmp_path / place, device)


@pytest.fixture
def alone(start: Callable[..., Run]) -> Callable[..., Run]:
    """A trial from beginning to end, by itself: alone(trial, folder's name)."""

    def train(trial: Trial, place: str = "alone") -> Run:
        run = start(place)
        run.engine.add(trial)
        return run.finish()

    return train


@pytest.fixture
def activations(request: pytest.FixtureRequest) -> MemoryActivations:
    """Small by default; a test that needs more parametrises it with the rows for training."""
    return MemoryActivations(getattr(request, "param", 2048))


@pytest.fixture(scope="session")
def make_trial() -> Callable[..., Trial]:
    """A resolved trial from the settings of `sae` and `train`."""

    def make(sae: dict[str, Any] | None = None, **train: Any) -> Trial:
        given = {"k": 3, "l1_alpha": 0.5}
        kind = ARCHITECTURES[(sae or {}).get("kind", "topk")]
        sparsity = {key: value for key, value in given.items() if key in kind.model_fields}
        config = TrialConfig.model_validate(
            {
                "activations": ActivationsConfig(synthetic=SyntheticConfig()),
                "sae": {"kind": "topk", "n_latents": 32, **sparsity, **(sae or {})},
                "train": {"lr": 1e-3, "batch_size": 64, "steps": 40, **train},
            }
        )
        return resolve(config, Source("memory", D, 2048, {}))

    return make


KINDS = {
    "topk": ({}, {"dead_window_tokens": 128}),
    "usage": ({"aux_kind": "usage", "aux_coeff": 1.0, "aux_target": 0.05}, {"lr": 3e-3}),
    "narrow": ({"n_latents": 20, "k": 5, "aux_coeff": 0}, {"seed_data": 4, "steps": 25}),
    "bf16_select": ({"aux_coeff": 0}, {"precision": "bf16_select", "latents": "dense"}),
    "l1": ({"kind": "l1"}, {"resample_every": 7, "resample_after": 1}),
    "controlled": (
        {"kind": "l1"},
        {
            "lr": 3e-3,
            "l0_controller": True,
            "l0_target": 0.05,
            "l0_target_start": 0.2,
            "resample_every": 9,
        },
    ),
    "batchtopk": ({"kind": "batchtopk"}, {"dead_window_tokens": 128}),
    "matryoshka": ({"kind": "matryoshka", "prefixes": "4/16/32"}, {"seed_init": 2}),
    "jumprelu": ({"kind": "jumprelu", "target_l0": 4}, {"lr": 3e-3, "seed_data": 2}),
    "gated": ({"kind": "gated", "diversity_coeff": 0.5}, {}),
    "signed": ({"select": "magnitude", "decoder_bias": False, "l1_coeff": 0.1}, {}),
    "geometric": ({"b_dec_init": "geometric_median"}, {"seed_init": 5}),
}


@pytest.fixture(scope="session")
def every(make_trial: Callable[..., Trial]) -> dict[str, Trial]:
    """One trial of every kind."""
    return {name: make_trial(sae, **train) for name, (sae, train) in KINDS.items()}


@pytest.fixture
def trials(every: dict[str, Trial]) -> dict[str, Trial]:
    """The same, to take from."""
    return dict(every)


@pytest.fixture(scope="session")
def company(
    every: dict[str, Trial],
    make_trial: Callable[..., Trial],
    diverging: Trial,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, Run]:
    """Two engines that train every kind: beside one that diverges, and joined late."""
    folder = tmp_path_factory.mktemp("company")
    packed, late = (Run(MemoryActivations(), folder / name) for name in ("packed", "late"))
    for trial in (diverging, *every.values()):
        packed.engine.add(trial)
    late.engine.add(make_trial(seed_init=9))
    late.advance(13)
    for trial in every.values():
        late.engine.add(trial)
    return packed.finish(3), late.finish(10)


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Of each trial in turn."""
    return request.param


@pytest.fixture(scope="session")
def diverging(make_trial: Callable[..., Trial]) -> Trial:
    return make_trial({"aux_coeff": 0}, lr=1e30, lr_warmup_fraction=0.0)
