"""Activations that fit neither memory nor disk: what they take, and how often they are computed.

    python -m benchmarks.activations_limits            # about 10 minutes on 2 cores, 6 GB of disk

Three tables. Peak memory of a sweep whose text has ever more tokens. The speed of training from a
set five times larger than the memory that the process and its page cache may have, beside the same
with all of it in memory; that needs root, for a memory control group and to empty the page cache.
How often each shard is computed when eight trials in two Ray slots share a cache of a tenth.
"""

import argparse
import gzip
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import fault_source

MEGA = 2**20
TEXTS = (1_000_000, 10_000_000, 50_000_000)
"""Tokens of the generated texts."""
DOCUMENT = 400
"""Words of a document."""
D = 512
ROWS = 2_000_000
WINDOW = 2**16
GROUPS = Path("/sys/fs/cgroup/memory")
LOOK_SECONDS = 0.01


class Ran(NamedTuple):
    """A command that ended well."""

    seconds: float
    peak_mb: float
    """Largest resident memory of its process."""


def sweep(*words: str, group: Path | None = None) -> Ran:
    """Run a sweep in a process of its own, in a memory control group if one is given."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    began = time.monotonic()
    command = [sys.executable, "-m", "sae_sweep", *words]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=enter)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            raise RuntimeError(log.read()[-3000:])
    return Ran(time.monotonic() - began, used.ru_maxrss / 1024)


def write_text(path: Path, tokens: int) -> None:
    """Write documents of random words, a JSON line each, compressed."""
    draw = random.Random(0)
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for _ in range(tokens // DOCUMENT + 1):
            words = " ".join(draw.choices(fault_source.WORDS, k=DOCUMENT))
            file.write(f'{{"text": "{words}"}}\n')


def text_rows(folder: Path) -> Iterator[str]:
    """Peak memory by the length of the text."""
    fault_source.causal_model(folder)
    model = f"activations.model={folder}"
    for tokens in TEXTS:
        text = folder / f"text-{tokens}.jsonl.gz"
        write_text(text, tokens)
        outputs = folder / f"outputs-{tokens}"
        ran = sweep(
            *("activations=minilm", model, "activations.layer=2", f"activations.text={text}"),
            *("activations.context=32", "activations.packing=packed", "activations.cache_gb=0.2"),
            *(f"activations.train_tokens={int(0.98 * tokens)}", "activations.window_rows=262144"),
            *("activations.validation_tokens=4096", "sae.n_latents=64", "sae.k=4"),
            *("train.tokens=262144", "executor=inline", f"outputs={outputs}", "sweep.name=long"),
        )
        plan = sum(p.stat().st_size for p in (outputs / "cache").rglob("*") if p.is_file()) / 1e6
        yield f"| {tokens:,} | {ran.seconds:.0f} s | {ran.peak_mb:,.0f} MB | {plan:,.0f} MB |"


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """A control group whose processes have so much memory, their page cache included."""
    group = GROUPS / "sae-sweep-benchmark"
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(megabytes * MEGA))
    try:
        yield group
    finally:
        group.rmdir()


def memory_row(folder: Path, megabytes: int) -> str:
    """Training from the disk beside training from memory."""
    outputs = folder / "outputs-large"
    words = [
        *("activations=synthetic", f"activations.d={D}", f"activations.train_tokens={ROWS}"),
        *("activations.validation_tokens=4096", f"activations.window_rows={WINDOW}"),
        *("sae.n_latents=1024", "sae.k=16", "train.batch_size=1024", "train.epochs=1"),
        *("executor=inline", f"outputs={outputs}"),
    ]
    speeds = []
    for name, allowed in (("first", None), ("memory", None), ("disk", megabytes)):
        seed = len(speeds)
        mine = [*words, f"train.seed_init={seed}", f"train.seed_data={seed}", f"sweep.name={name}"]
        if allowed is None:
            sweep(*mine)
        else:
            Path("/proc/sys/vm/drop_caches").write_text("3")
            with memory_group(allowed) as group:
                sweep(*mine, group=group)
        query = "SELECT seconds FROM sweep_trial ORDER BY finished DESC LIMIT 1"
        with sqlite3.connect(outputs / "sae_sweep.db") as store:
            speeds.append(ROWS / store.execute(query).fetchone()[0])
    size = sum(p.stat().st_size for p in outputs.glob("activations/*/train-*.safetensors")) / MEGA
    _, memory, disk = speeds
    return (
        f"| {size:,.0f} MB | {megabytes:,} MB | {size / megabytes:.1f} | {memory:,.0f} | "
        f"{disk:,.0f} | {disk / memory:.2f} |"
    )


class Watcher(threading.Thread):
    """Counts the shards that come into being in a folder."""

    def __init__(self, outputs: Path) -> None:
        super().__init__(daemon=True)
        self._outputs = outputs
        self.seen: set[tuple[str, int, int]] = set()
        self.over = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self.over.wait(LOOK_SECONDS):
            for path in self._outputs.glob("activations/*/train-*.safetensors"):
                if path.name.endswith(".origins.safetensors"):
                    continue
                try:
                    found = path.stat()
                except OSError:  # evicted meanwhile
                    continue
                self.seen.add((path.name, found.st_ino, found.st_mtime_ns))


def shard_row(folder: Path) -> str:
    """How often shards are computed for eight trials in two slots."""
    outputs = folder / "outputs-eight"
    source = fault_source.causal_model(folder)
    watcher = Watcher(outputs)
    watcher.start()
    ran = sweep(
        *(*source, "sae.n_latents=64", "sae.k=[2,4]", "train.lr=[1e-3,2e-3,4e-3,8e-3]"),
        *("train.epochs=1", "executor=ray", "executor.slots=2", "executor.threads=1"),
        *(f"outputs={outputs}", "sweep.name=eight"),
    )
    watcher.over.set()
    watcher.join()
    names = {name for name, _, _ in watcher.seen}
    return (
        f"| {len(names)} | {len(watcher.seen)} | {len(watcher.seen) / len(names):.2f} | "
        f"{ran.seconds:.0f} s |"
    )


PARTS = ("text", "memory", "shards")


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.activations_limits",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--megabytes", type=int, default=800, help="memory for the second table")
    options = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sae-sweep-limits-", dir=".") as name:
        folder = Path(name).absolute()
        if "text" in options.only:
            lines += [
                "| tokens of text | whole sweep | peak memory | plan on disk |",
                "|" + " --- |" * 4,
            ]
            lines += text_rows(folder)
        if "memory" in options.only:
            lines += [
                "",
                "| set | memory allowed | ratio | in memory, rows/s | limited, rows/s | ratio |",
                "|" + " --- |" * 6,
                memory_row(folder, options.megabytes),
            ]
        if "shards" in options.only:
            lines += ["", "| shards | computed | ratio | whole sweep |", "|" + " --- |" * 4]
            lines.append(shard_row(folder))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
