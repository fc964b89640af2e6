"""What every executor promises: the same bits, failures that stay local, and nothing lost."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import small_sweeps as sweeps

from benchmarks.fault_sweep import processes_with
from sae_sweep.records.store import owner
from sae_sweep.tune import orphans

RAY = pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])
on_both = pytest.mark.parametrize("executor", ["inline", RAY])


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> dict[str, tuple[str, str]]:
    """The results of an uninterrupted sweep."""
    outputs = tmp_path_factory.mktemp("reference")
    sweeps.run(outputs, "inline")
    found = sweeps.results(outputs)
    assert len(found) == 4
    return found


@on_both
def test_every_executor_gives_the_same_bits(executor, tmp_path, reference) -> None:
    text = sweeps.run(tmp_path, executor)
    assert sweeps.results(tmp_path) == reference
    assert sweeps.times_done(tmp_path) == [1] * 4
    assert (tmp_path / "tiny" / "report.md").is_file()
    assert re.search(r"^report: .*tiny/report.md \(figures/ and data/ beside it\)$", text, re.M)
    leftovers = list((tmp_path / "trials").glob("*/claim-*"))
    assert leftovers == []


@pytest.mark.slow
@on_both
def test_a_rerun_trains_nothing_and_an_extension_only_what_is_new(
    executor, tmp_path, reference
) -> None:
    sweeps.run(tmp_path, executor)
    before = (tmp_path / "tiny" / "report.md").stat().st_mtime_ns
    assert "nothing to train" in sweeps.run(tmp_path, executor)
    assert (tmp_path / "tiny" / "report.md").stat().st_mtime_ns == before
    sweeps.run(tmp_path, executor, "sae.k=[4,8,16]")
    found = sweeps.results(tmp_path)
    assert len(found) == 6
    assert reference.items() <= found.items()
    assert sweeps.times_done(tmp_path) == [1] * 6


@pytest.mark.slow
@on_both
def test_a_diverging_and_a_failing_trial_leave_the_others_untouched(
    executor, tmp_path, reference
) -> None:
    # a file where the second trial's folder should be makes it fail when it wants to write
    text = sweeps.run(tmp_path, executor, "dry_run=true")
    assert "4 trials, 4 to train" in text
    sweeps.run(tmp_path / "elsewhere", "inline")
    label, victim = next(
        (p.name.rpartition("-")[0], p.name)
        for p in sorted((tmp_path / "elsewhere" / "trials").iterdir())
    )
    (tmp_path / "trials").mkdir(exist_ok=True)
    (tmp_path / "trials" / victim).write_text("in the way")
    sweeps.run(tmp_path, executor, "train.lr=[1e-3,3e-3,1e30]", code=1)
    assert (
        sweeps.results(tmp_path).items()
        == {k: v for k, v in reference.items() if k != label}.items()
    )
    status = sweeps.statuses(tmp_path)
    assert status[label] == "failed"
    assert sorted(status.values()) == ["diverged"] * 2 + ["done"] * 3 + ["failed"]
    errors = dict(
        sweeps.rows(tmp_path, "SELECT status, error FROM sweep_trial WHERE error IS NOT NULL")
    )
    assert "became non-finite at step" in errors["diverged"]
    assert re.match(r"\w+Error: ", errors["failed"])
    (tmp_path / "trials" / victim).unlink()
    sweeps.run(tmp_path, executor, "rerun=failed")
    assert sweeps.results(tmp_path) == reference


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("moment", ["first report", "first end"])
def test_a_killed_driver_loses_nothing(executor, tmp_path, reference, moment) -> None:
    process = sweeps.start(tmp_path, executor, "train.checkpoint_every=20")
    seen = {
        "first report": "SELECT 1 FROM sweep_metric LIMIT 1",
        "first end": "SELECT 1 FROM sweep_trial WHERE status = 'done' LIMIT 1",
    }
    sweeps.wait_until(lambda: sweeps.rows(tmp_path, seen[moment]), process)
    driver = {**owner.current_owner(), "pid": process.pid}
    driver["pid_started"] = owner.process_start(process.pid)
    mark = f"{orphans.MARK}={orphans.mark_of(driver)}"
    time.sleep(0.1)
    sweeps.kill(process)
    sweeps.run(tmp_path, executor)
    assert processes_with(mark) == {}
    assert sweeps.results(tmp_path) == reference
    assert sweeps.times_done(tmp_path) == [1] * 4


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_checkpoints_and_says_how_to_continue(
    executor, tmp_path, reference, number
) -> None:
    process = sweeps.start(tmp_path, executor)
    sweeps.wait_until(lambda: sweeps.rows(tmp_path, "SELECT 1 FROM sweep_metric LIMIT 1"), process)
    os.kill(process.pid, number)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 130, text
    assert "to continue: python -m sae_sweep" in text
    assert "interrupted" in sweeps.statuses(tmp_path).values()
    assert list((tmp_path / "trials").glob("*/claim-*/resume.safetensors"))
    text = sweeps.run(tmp_path, executor)
    assert "continues from step" in text
    assert sweeps.results(tmp_path) == reference


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_cluster_is_open_to_nobody_else_and_a_killed_slot_is_retried(
    tmp_path, reference
) -> None:
    process = sweeps.start(tmp_path, "ray", "train.checkpoint_every=20")
    sweeps.wait_until(lambda: sweeps.rows(tmp_path, "SELECT 1 FROM sweep_metric LIMIT 1"), process)
    folder = folder_open_to_nobody_else(process)
    slots = sweeps.slots_of(process)
    assert slots
    for slot in slots:
        os.kill(slot, signal.SIGKILL)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert sweeps.rows(tmp_path, "SELECT 1 FROM sweep_event WHERE kind = 'slot_died'")
    assert sweeps.results(tmp_path) == reference
    assert not folder.exists()


def folder_open_to_nobody_else(process: subprocess.Popen[str]) -> Path:
    """Check who can reach a sweep's local cluster; returns its folder."""
    listeners, words = set(), ""
    sweep = psutil.Process(process.pid)
    for member in (sweep, *sweep.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # some of Ray's helpers live for a moment
            listeners |= {
                one.laddr.ip.removeprefix("::ffff:")
                for one in member.net_connections()
                if one.status == psutil.CONN_LISTEN
            }
            words += " ".join(member.cmdline()) + " "
    assert not re.search(r"/(dashboard|monitor|log_monitor)\.py\b", words)  # nobody asks them
    [folder] = {Path(found) for found in re.findall(r"/[^\s=:]*/sae-ray-\w+", words)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert listeners == {"127.0.0.1"}
    return folder
