"""Sweeps over a set of activations that the disk does not hold: the same results, bit for bit."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import small_sweeps as sweeps

from benchmarks.fault_source import causal_model

pytestmark = pytest.mark.slow

ROWS = 20_000
ROW_BYTES = 4 * 16 + 6 + 12
A_TENTH = ROWS * ROW_BYTES / 10 / 1e9


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A sweep over three layers of a causal model made here, over a text made here."""
    folder = tmp_path_factory.mktemp("gpt2")
    causal_model(folder, blocks=5)
    return [
        f"activations.model={folder}",
        f"activations.text={folder / 'text.txt'}",
        "activations.layer=[1,3,5]",
        "activations.context=32",
        f"activations.train_tokens={ROWS}",
        "activations.validation_tokens=1000",
        f"activations.window_rows={ROWS // 25}",
        "activations=minilm",
        "sae.n_latents=64",
        "sae.k=[4,8]",
        "train.lr=1e-3",
        "train.epochs=1.5",
        "train.batch_size=256",
        "sweep.name=tiny",
    ]


@pytest.fixture(scope="module")
def unbounded(
    causal: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, bytes]]:
    """Results of the sweep with all shards on disk."""
    outputs = tmp_path_factory.mktemp("whole")
    sweeps.run(outputs, "inline", *causal)
    found = results(outputs)
    assert len(found) == 6
    return found


def results(outputs: Path) -> dict[str, tuple[str, bytes]]:
    """Final metrics and weights by uid, of every trial that is done."""
    done = "SELECT label, uid, final FROM sweep_trial WHERE status = 'done'"
    return {
        uid: (final, (outputs / "trials" / f"{label}-{uid}" / "sae.safetensors").read_bytes())
        for label, uid, final in sweeps.rows(outputs, done)
    }


def train_bytes(outputs: Path) -> int:
    """Of the layer that takes most."""
    folders = (outputs / "activations").iterdir()
    return max(sum(path.stat().st_size for path in one.glob("train-*")) for one in folders)


def test_a_cache_of_a_tenth_gives_the_same_results_even_after_kills(
    causal: list[str], unbounded: dict[str, tuple[str, bytes]], tmp_path: Path
) -> None:
    words = [*causal, f"activations.cache_gb={A_TENTH:.3g}", "train.checkpoint_every=10"]

    def begun() -> bool:
        return bool(sweeps.rows(tmp_path, "SELECT 1 FROM sweep_trial WHERE status='running'"))

    def one_done() -> bool:
        return bool(sweeps.rows(tmp_path, "SELECT 1 FROM sweep_trial WHERE status='done'"))

    conditions: list[Callable[[], bool]] = [
        lambda: any((tmp_path / "activations").glob("*/train-00000.safetensors")),
        begun,
        one_done,
    ]
    for condition in conditions:
        process = sweeps.start(tmp_path, "inline", *words)
        sweeps.wait_until(condition, process)
        sweeps.kill(process)
    sweeps.run(tmp_path, "inline", *words)
    assert results(tmp_path) == unbounded
    assert train_bytes(tmp_path) < 1.5 * A_TENTH * 1e9


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_extractors_on_ray_give_the_same_results_and_one_that_dies_is_replaced(
    causal: list[str], unbounded: dict[str, tuple[str, bytes]], tmp_path: Path
) -> None:
    words = [*causal, f"activations.cache_gb={A_TENTH:.3g}", "executor.extractors=1"]
    process = sweeps.start(tmp_path, "ray", *words, "executor.slots=1")
    extractor: list[int] = []

    def found() -> bool:
        extractor[:] = sweeps.actors_of(process, "Extractor.run")
        return bool(extractor)

    sweeps.wait_until(found, process)
    os.kill(extractor[0], signal.SIGKILL)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert results(tmp_path) == unbounded
    assert train_bytes(tmp_path) < 1.5 * A_TENTH * 1e9
