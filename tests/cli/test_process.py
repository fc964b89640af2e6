"""The command as a process: its modules, its streams, its interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SAE_SWEEP = [sys.executable, "-m", "sae_sweep"]
RAISES = "raise SystemExit('a file of the user was run')\n"


def run(*words: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SAE_SWEEP, *words], cwd=folder, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modules", "packages"])
def test_a_users_modules_are_not_imported(tmp_path: Path, kind: str) -> None:
    for name in ("analysis", "random", "argparse", "numpy", "conf", "utils"):
        path = tmp_path / f"{name}.py" if kind == "modules" else tmp_path / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(RAISES)
    done = run("+sweep=smoke", "executor=inline", "sae.k=4", "train.lr=1e-3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report: outputs/smoke/report.md" in done.stdout
    done = run("status", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("smoke: ")


@pytest.mark.parametrize(
    ("words", "to", "code"),
    [
        ("--help", "| head -0", 0),
        ("help metrics", ">&-", 0),
        ("report --help", "| head -1", 0),
        ("--help", ">/dev/full", 1),  # what cannot be written is a failure
        ("status", "2>&-", 2),
        ("+sweep=none", "2>/dev/full", 2),
    ],
)
def test_streams_that_end_early_are_ignored(tmp_path: Path, words: str, to: str, code: int) -> None:
    command = f"{' '.join(SAE_SWEEP)} {words} {to}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(
    ("end", "code", "last"), [("return 3", 3, "at exit"), ("raise KeyError", 1, "torn down")]
)
def test_the_teardown_is_skipped_and_nothing_else(
    tmp_path: Path, end: str, code: int, last: str
) -> None:
    (tmp_path / "ending.py").write_text(
        "import atexit, sys, threading, time\n"
        "from sae_sweep import process\n"
        "class Kept:\n"
        "    def __del__(self):\n"
        "        sys.stdout.write('torn down\\n')\n"
        "kept = Kept()\n"
        "def main(_):\n"
        "    atexit.register(sys.stdout.write, 'at exit\\n')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.2), print('a thread'))).start()\n"
        f"    {end}\n"
        "process.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "ending.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "KeyError" in done.stderr) == (code, code == 1)
    assert done.stdout.splitlines()[0] == "a thread"
    assert done.stdout.splitlines()[-1] == last


@pytest.mark.slow
@pytest.mark.parametrize("module", ["omegaconf", "torch.nn", "sae_sweep.tune"])
def test_ctrl_c_during_start_up_is_clean(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sae_sweep", "+sweep=smoke"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        said = "".join(line for line in process.stderr if not line.startswith("import time:"))
        assert (process.wait(timeout=60), said) == (130, "\nstopped; nothing was started\n")


@pytest.mark.slow
def test_sigint_stays_ignored_under_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen([*SAE_SWEEP, "--help"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("+sweep=smoke", "executor=inline", "outputs=file/out", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "file" in done.stderr
    data = Path(__file__).parents[1] / "data" / "inputs" / "runs_bom.jsonl"
    done = run("import", str(data), "--name", "x", "--outputs", "file/out", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_user_without_a_home_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_sweep.cli.run import _keep_caches_inside

    def homeless(_class: type) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(homeless))
    for name in ("HOME", "USER"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    _keep_caches_inside(tmp_path)
    assert os.environ["HOME"] == str(tmp_path / "cache" / "home")
    assert os.environ["USER"] == f"uid-{os.getuid()}"
