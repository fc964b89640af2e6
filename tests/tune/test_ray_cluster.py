"""A Ray cluster that others started; its GPUs are pretended ones."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_sweeps as sweeps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.alone]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def ray_folder(monkeypatch) -> Iterator[Path]:
    """Where `auto` looks for a cluster: a folder of the test's own, with a short name."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        yield Path(folder)


def test_auto_without_a_cluster_is_refused_before_extraction(tmp_path, ray_folder) -> None:
    text = sweeps.run(tmp_path, "ray", "executor.address=auto", code=2)
    assert "executor.address=auto: no Ray cluster answers there" in text
    assert list((tmp_path / "activations").iterdir()) == []


def test_slots_take_a_gpu_each_on_a_running_cluster(tmp_path, ray_folder) -> None:
    words = ["start", "--head", "--block", "--num-cpus=2", "--num-gpus=2", "--port=6397"]
    log = (tmp_path / "head.log").open("w+")
    head = subprocess.Popen(
        [*RAY, *words, "--include-dashboard=false"], stdout=log, stderr=log, start_new_session=True
    )
    try:
        sweeps.wait_until(lambda: (ray_folder / "ray" / "ray_current_cluster").exists(), head)
        greedy = ["executor.extractors=1", "executor.extractor_gpus=1.5"]
        text = sweeps.run(tmp_path, "ray", "executor.address=auto", *greedy, code=2)
        cores = ["executor.address=auto", "executor.extractors=2"]
        no_core = sweeps.run(tmp_path, "ray", *cores, code=2)
        sweeps.run(tmp_path, "ray", "executor.address=auto", "executor.cohort=2")
    finally:
        sweeps.kill_group(head)
        log.close()
    assert set(sweeps.statuses(tmp_path).values()) == {"done"}
    assert "extractor_gpus=1.5 on a cluster with 2 GPUs leaves none to train on" in text
    assert "extractors=2 with executor.extractor_gpus=0 on a cluster with 2 CPUs leaves" in no_core
