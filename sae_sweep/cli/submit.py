"""`python -m sae_sweep submit slurm +sweep=NAME --gpus 8`: one batch script for the whole sweep."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from sae_sweep.cli.compose import compose, validate_run
from sae_sweep.errors import BadInput
from sae_sweep.remote import local_folder

GRACE_SECONDS = 180
"""Between Slurm's SIGTERM and the end of the allocation: time for the checkpoints."""

PORT = 6379
"""Of Ray's head, in an allocation of several nodes."""

HEAD = """\
#!/usr/bin/env bash
{directives}
# Written by `{command}`. Submit it again at any time: done trials are not trained twice.
set -u
cd {folder}
sweep() {{ exec {python} -m sae_sweep {arguments}; }}
"""

CLUSTER = """\
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')"
export RAY_USAGE_STATS_ENABLED=0
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
start="{python} -m ray.scripts.scripts start --block --disable-usage-stats"
srun --nodes=1 --ntasks=1 --nodelist="$head" $start --head --port={port} &
sleep {settle}
srun --nodes={others} --ntasks={others} --exclude="$head" $start --address="$head:{port}" &
sleep {settle}
export RAY_ADDRESS="$head:{port}"
"""

TAIL = """\
sweep & child=$!
trap 'kill -TERM "$child"' TERM INT
code=0; wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done
if [ "$code" = 130 ] && [ {requeue} = yes ]; then scontrol requeue "$SLURM_JOB_ID" && exit 0; fi
exit "$code"
"""


class Request(NamedTuple):
    """The requested Slurm allocation."""

    gpus: int
    """In all."""
    nodes: int
    time: str | None
    """As Slurm writes it, D-HH:MM:SS or HH:MM:SS."""
    requeue: bool
    extra: list[str]
    """Further options of sbatch, e.g. partition=gpu."""


def submit(arguments: list[str]) -> int:
    """Write a batch script that runs a sweep inside one Slurm allocation, and submit it if asked.

    Raises:
        BadInput: settings that a sweep would refuse, an impossible allocation, no Slurm here.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sae_sweep submit slurm",
        usage="%(prog)s +sweep=NAME [KEY=VALUE ...] --gpus N [options]",
        allow_abbrev=False,
    )
    parser.add_argument("scheduler", choices=["slurm"])
    parser.add_argument("--gpus", type=int, required=True, help="in all; 0 trains on cores")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--time", help="e.g. 4h, 90m, 2d, or as Slurm writes it: 04:00:00")
    parser.add_argument("--requeue", action="store_true", help="go on in a new allocation")
    parser.add_argument("--now", action="store_true", help="submit it with sbatch")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--config-dir", type=Path)
    options, overrides = parser.parse_known_args(arguments)
    config = validate_run(compose(overrides, options.config_dir).settings)
    request = Request(
        options.gpus, options.nodes, _slurm_time(options.time), options.requeue, options.sbatch
    )
    _require_possible(request)
    if options.now and shutil.which("sbatch") is None:
        raise BadInput(
            "submit --now: this machine has no sbatch: run it on a login node of the cluster, or "
            "leave --now out and copy the script there"
        )
    folder = local_folder(config.outputs).absolute() / config.sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "slurm.sh"
    words = list(overrides)
    if options.config_dir is not None:
        words += ["--config-dir", str(options.config_dir.absolute())]
    command = shlex.join(["python", "-m", "sae_sweep", "submit", *arguments])
    path.write_text(batch_script(request, words, config.sweep.name, folder, command))
    sys.stdout.write(f"wrote {path}; submit it with: sbatch {shlex.quote(str(path))}\n")
    if options.now:
        _sbatch(path)
    return 0


def batch_script(request: Request, words: list[str], sweep: str, folder: Path, command: str) -> str:
    """Write the batch script.

    Args:
        request: the allocation.
        words: the sweep's command line, without `python -m sae_sweep`.
        sweep: its name, for the job's.
        folder: where the job's log goes.
        command: what is to be written as its origin.
    """
    directives = [
        f"--job-name=sae_sweep-{sweep}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={request.gpus // request.nodes}"] if request.gpus else []),
        *([f"--time={request.time}"] if request.time else []),
        f"--signal=B:TERM@{GRACE_SECONDS}",
        "--open-mode=append",
        f"--output={folder}/slurm-%j.log",
        "--requeue" if request.requeue else "--no-requeue",
        *(f"--{one}" for one in request.extra),
    ]
    python = shlex.quote(sys.executable)
    if request.nodes > 1:
        words = [*words, "executor.address=auto"]
    parts = [
        HEAD.format(
            directives="\n".join(f"#SBATCH {one}" for one in directives),
            command=command,
            folder=shlex.quote(str(Path.cwd())),
            python=python,
            arguments=shlex.join(words),
        )
    ]
    if request.nodes > 1:
        parts.append(CLUSTER.format(python=python, port=PORT, others=request.nodes - 1, settle=15))
    parts.append(TAIL.format(requeue="yes" if request.requeue else "no"))
    return "".join(parts)


def _slurm_time(text: str | None) -> str | None:
    """4h, 90m and 2d in Slurm's words; its own are left as they are."""
    if text is None or re.fullmatch(r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?|\d+-\d{1,2}", text):
        return text
    if not (found := re.fullmatch(r"(\d+)([mhd])", text)):
        raise BadInput(f"--time={text}: write e.g. 4h, 90m, 2d, or 1-04:00:00 as Slurm does")
    minutes = int(found[1]) * {"m": 1, "h": 60, "d": 1440}[found[2]]
    days, rest = divmod(minutes, 1440)
    return f"{f'{days}-' if days else ''}{rest // 60:02}:{rest % 60:02}:00"


def _require_possible(request: Request) -> None:
    if request.nodes < 1:
        raise BadInput(f"--nodes={request.nodes}: an allocation has at least one node")
    if request.gpus < 0 or request.gpus % request.nodes:
        raise BadInput(
            f"--gpus={request.gpus} with --nodes={request.nodes}: every node gets the same number; "
            f"use a multiple of {request.nodes}"
        )
    for option in request.extra:
        if not re.fullmatch(r"[a-z][a-z-]*(=\S+)?", option):
            raise BadInput(f"--sbatch {option}: write an option of sbatch, e.g. partition=gpu")


def _sbatch(path: Path) -> None:
    ran = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if ran.returncode:
        reason = " ".join(ran.stderr.split())
        raise BadInput(
            f"sbatch refused {path}: {reason}; change --gpus, --nodes or --time, or name a "
            "partition with --sbatch partition=NAME"
        )
    sys.stdout.write(ran.stdout)
