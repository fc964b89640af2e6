"""The batch script on a real Slurm: SAE_SWEEP_TEST_SLURM names its slurm.conf (.ci/slurm)."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_sweep.cli import main

CONF = os.environ.get("SAE_SWEEP_TEST_SLURM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CONF, reason="no Slurm here: SAE_SWEEP_TEST_SLURM names none"),
]
SMOKE = ["+sweep=smoke", "executor=inline", "activations.train_tokens=1024"]
SMOKE += ["activations.validation_tokens=256", "train.epochs=500"]


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def state(job: str) -> str:
    found = re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))
    assert found is not None
    return found[1]


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, slurm("squeue")
        time.sleep(0.1)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Iterator[str]:
    """A submitted sweep, cancelled at the end."""
    assert CONF is not None
    monkeypatch.setenv("SLURM_CONF", CONF)
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}", "--gpus", "0", "--time", "10m"]
    assert main([*words, "--requeue", "--now"]) == 0
    number = re.search(r"Submitted batch job (\d+)", capsys.readouterr().out)
    assert number is not None
    yield number[1]
    subprocess.run(["scancel", number[1]], check=False)


def test_a_job_that_is_told_to_end_requeues_itself_and_goes_on(job: str, tmp_path: Path) -> None:
    wait(lambda: bool(list(tmp_path.glob("trials/*/claim-*"))))
    slurm("scancel", "--signal=TERM", "--batch", job)
    wait(lambda: state(job) == "PENDING")
    time.sleep(5)  # Slurm does not start a job anew in the second in which it revoked it
    slurm("scontrol", "update", f"jobid={job}", "StartTime=now")  # else two minutes later
    wait(lambda: state(job) == "COMPLETED")
    said = (tmp_path / "smoke" / f"slurm-{job}.log").read_text()
    assert "SIGTERM: trials are being checkpointed" in said
    assert "continues from step" in said
    assert "4 trials: 4 done" in said
    assert (tmp_path / "smoke" / "report.md").exists()


def test_what_slurm_cannot_give_is_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert CONF is not None
    monkeypatch.setenv("SLURM_CONF", CONF)
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}", "--gpus", "8", "--now"]
    assert main(words) == 2
    assert "change --gpus, --nodes or --time" in capsys.readouterr().err
