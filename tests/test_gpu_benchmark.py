"""The GPU benchmark's own code, in Triton's interpreter: that it would tell right from wrong."""

import pytest
import torch

from benchmarks import gpu, gpu_cases
from benchmarks.gpu_cases import Packs, RandomRows, Shape, settle

SHAPE = Shape(16, 256, 2, 8)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpu, gpu_cases):
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def test_it_finds_our_first_step_right() -> None:
    trial = settle(SHAPE, steps=10, precision="fp32")
    lines = list(gpu.correctness(trial, SHAPE, 1e-5))
    assert [line[1] for line in lines] == [
        f"first.{name}" for name in ("w_enc", "b_enc", "w_dec", "b_dec")
    ]
    assert {line[-1] for line in lines} == {"ok"}


def test_it_finds_a_wrong_step_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(packs: Packs, steps: int) -> float:
        packs.pack.update(packs.members, steps + 1)
        return 0.0

    monkeypatch.setattr(Packs, "advance", late)
    trial = settle(SHAPE, steps=10, precision="fp32")
    assert "WRONG" in {line[-1] for line in gpu.correctness(trial, SHAPE, 1e-5)}


def test_packs_advance_all_their_members() -> None:
    trials = [settle(SHAPE, steps=10, precision="fp32", seed_init=seed) for seed in range(2)]
    packs = Packs(trials, RandomRows(SHAPE.d, 64))
    packs.advance(1)
    assert list(packs.members.values()) == [1, 1]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "needs a GPU and none is visible here" in capsys.readouterr().err
