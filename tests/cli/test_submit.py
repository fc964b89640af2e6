"""The batch script, run by stand-ins for Slurm's commands."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_sweep.cli import main
from sae_sweep.cli.submit import _slurm_time
from sae_sweep.errors import BadInput

SMOKE = ["+sweep=smoke", "executor=inline", "activations.train_tokens=1024"]
SMOKE += ["activations.validation_tokens=256"]


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder of stand-ins, first on the path; they note their arguments in files there."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, body in {
        "sbatch": 'echo "$@" >> "$0.said"; echo "Submitted batch job 7"',
        "scontrol": 'echo "$@" >> "$0.said"; [ "$1" != show ] || printf "node1\\nnode2\\n"',
        "srun": 'echo "$@" >> "$0.said"',
    }.items():
        file = place / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return place


def written(outputs: Path) -> Path:
    return outputs / "smoke" / "slurm.sh"


@pytest.mark.slow
def test_the_script_runs_the_sweep_and_asks_slurm_for_what_was_said(tmp_path, slurm, capsys):
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}"]
    assert main([*words, "--gpus", "8", "--time", "4h", "--sbatch", "partition=gpu", "--now"]) == 0
    path = written(tmp_path)
    assert capsys.readouterr().out.endswith("Submitted batch job 7\n")
    assert (slurm / "sbatch.said").read_text() == f"{path}\n"
    asked = {line for line in path.read_text().splitlines() if line.startswith("#SBATCH ")}
    assert {
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --nodes=1",
        "#SBATCH --time=04:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=B:TERM@180",
    } <= asked
    ran = subprocess.run(["bash", path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "4 trials: 4 done" in ran.stderr
    assert (tmp_path / "smoke" / "report.md").exists()


@pytest.mark.slow
def test_sigterm_checkpoints_requeues_and_the_next_allocation_goes_on(tmp_path, slurm) -> None:
    words = ["submit", "slurm", *SMOKE, "train.epochs=500", f"outputs={tmp_path}"]
    assert main([*words, "--gpus", "0", "--requeue"]) == 0
    path = written(tmp_path)
    with subprocess.Popen(["bash", path], stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("trials/*/claim-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert "SIGTERM: trials are being checkpointed" in said
    assert (slurm / "scontrol.said").read_text() == "requeue 7\n"
    again = subprocess.run(["bash", path], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "continues from step" in again.stderr
    assert "4 trials: 4 done" in again.stderr


def test_several_nodes_start_ray_with_a_token_and_join_it(tmp_path, slurm, monkeypatch) -> None:
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}", "--gpus", "8", "--nodes", "2"]
    assert main(words) == 0
    text = written(tmp_path).read_text()
    # the stand-in runs no Ray, so the sweep itself stays out of this
    text = text.replace("sleep 15", ":").replace(sys.executable, "echo", 1)
    ran = subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        env={**os.environ, "SLURM_JOB_NODELIST": "node[1-2]"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "executor.address=auto" in ran.stdout
    asked = sorted((slurm / "srun.said").read_text().splitlines())
    assert any("--nodelist=node1" in one and "start --block" in one for one in asked)
    assert any("--exclude=node1" in one and "--address=node1:6379" in one for one in asked)


def test_without_slurm_the_message_says_where_to_go(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}", "--gpus", "1", "--now"]
    assert main(words) == 2
    assert "this machine has no sbatch: run it on a login node" in capsys.readouterr().err


def test_a_partition_that_cannot_give_so_much_is_one_message(tmp_path, slurm, capsys) -> None:
    refusal = "sbatch: error: Requested node configuration is not available"
    (slurm / "sbatch").write_text(f"#!/usr/bin/env bash\necho '{refusal}' >&2\nexit 1\n")
    words = ["submit", "slurm", *SMOKE, f"outputs={tmp_path}", "--gpus", "99", "--now"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{refusal}; change --gpus, --nodes or --time" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "3", "--nodes", "2"], "--gpus=3 with --nodes=2: .* use a multiple of 2"),
        (["--gpus", "1", "--nodes", "0"], "--nodes=0: an allocation has at least one node"),
        (["--gpus", "1", "--time", "long"], "--time=long: write e.g. 4h, 90m, 2d"),
        (["--gpus", "1", "--sbatch", "a b"], "--sbatch a b: write an option of sbatch"),
        (["--gpus", "1", "sae.k=0"], r"sae\.k=0"),
    ],
)
def test_an_impossible_request_is_one_message(tmp_path, options, message) -> None:
    from sae_sweep.cli.submit import submit

    with pytest.raises(BadInput, match=message):
        submit(["slurm", *SMOKE, f"outputs={tmp_path}", *options])
    assert not written(tmp_path).exists()


def test_times_are_written_as_slurm_does() -> None:
    assert [_slurm_time(one) for one in ("90m", "4h", "2d", "30h", "1-04:00:00", None)] == [
        "01:30:00",
        "04:00:00",
        "2-00:00:00",
        "1-06:00:00",
        "1-04:00:00",
        None,
    ]
