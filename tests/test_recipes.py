"""The recipes for clusters: what of them runs without one, does."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_sweep.cli import main
from sae_sweep.records.store import Store

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "recipes"


def recipe(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RECIPES / name).read_text())
    return found


def composed(command: str, outputs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a sweep's command says of itself before anything is started."""
    words = [word for word in shlex.split(command)[3:] if not word.startswith("outputs=")]
    assert main([*words, f"outputs={outputs}", "dry_run=true"]) == 0
    return capsys.readouterr().out


def test_the_kubernetes_job_runs_a_command_that_is_understood(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SAE_SWEEP_STORE", f"sqlite:///{tmp_path}/store.db")
    job = recipe("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    entrypoint = job["spec"]["entrypoint"]
    assert entrypoint.startswith("python -m sae_sweep ")
    assert "trials" in composed(entrypoint, tmp_path, capsys)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    outputs = re.findall(r"outputs=(\S+)", entrypoint)
    for pod in pods:
        spec = pod["template"]["spec"]
        (container,) = spec["containers"]
        assert [one["mountPath"] for one in container["volumeMounts"]] == outputs
        assert [one["name"] for one in container["volumeMounts"]] == [
            one["name"] for one in spec["volumes"]
        ]
        assert container["env"][0]["name"] == "SAE_SWEEP_STORE"


def test_the_spot_job_runs_a_command_that_is_understood(tmp_path, capsys):
    run = recipe("skypilot.yaml")["run"]
    (command,) = re.findall(r"^python -m sae_sweep .*(?= \|\|)", run, re.MULTILINE)
    assert "trials" in composed(command, tmp_path, capsys)


def test_the_spot_job_brings_outputs_to_the_bucket_and_back(tmp_path, monkeypatch):
    bucket, home = tmp_path / "bucket", tmp_path / "home"
    home.mkdir()
    (bucket / "outputs" / "trials").mkdir(parents=True)
    (bucket / "outputs" / "trials" / "before").write_text("of the machine before")
    run = recipe("skypilot.yaml")["run"].replace("/bucket", str(bucket))
    run = run.replace("exit $code", "true")
    # the sweep itself is played by what a sweep leaves behind
    sweep = re.search(r"^python -m sae_sweep .*$", run, re.MULTILINE)
    assert sweep is not None
    url = f"sqlite:///{home}/outputs/sae_sweep.db"
    run = run.replace(sweep[0], "echo new > ~/outputs/trials/after")
    (home / "outputs").mkdir()
    with Store(url):
        pass
    if subprocess.run(["which", "rsync"], capture_output=True, check=False).returncode:
        run = re.sub(r"rsync .*", "cp -a ~/outputs/trials " + str(bucket / "outputs"), run)
    subprocess.run(["bash", "-eu", "-c", run], env={"HOME": str(home), "PATH": _path()}, check=True)
    assert (home / "outputs" / "trials" / "before").exists()
    assert (bucket / "outputs" / "trials" / "after").read_text() == "new\n"
    with Store(f"sqlite:///{bucket}/outputs/sae_sweep.db") as store:
        assert store.owners() == []


def _path() -> str:
    import os
    import sys

    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"
