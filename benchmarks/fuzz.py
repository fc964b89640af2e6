"""Damaged inputs: each is read, or refused in one message.

    python -m benchmarks.fuzz --seconds 60 [--seed 0] [--keep DIR]

Whole inputs of every kind that a user hands in (texts, tables of runs, choices in YAML,
safetensors, checkpoints, manifests, weights, pages and cells of the store) are damaged at random
and read as the commands read them. What is neither read nor refused with `BadInput`, which is exit
code 2, is a fault: its traceback is printed and the damaged input kept. Every fifth table and store
that is read is also rendered as a report.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from analysis.cli import main as analyse
from analysis.data import runs
from analysis.foreign import Request, import_sweep
from analysis.status import status
from analysis.study.table import load as load_study
from sae_sweep.activations import files, texts
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.cli.compose import compose, validate_run
from sae_sweep.cli.main import main
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import sha256
from sae_sweep.records.store import Reader, default_url
from sae_sweep.sae import load
from sae_sweep.train import checkpoint

FEWEST = 500
RENDERED_EACH = 5
TOKENS = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\n\n", b"\xe2\x80\xa8", b'"'),
    *(
        b"'",
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"nan",
        b"inf",
        b"-inf",
        b"None",
        b"null",
        b"1e999",
    ),
    *(
        b"-1",
        b"0",
        b"010",
        b"1:30",
        b"1,024",
        b"9" * 25,
        b"${x}",
        b"$_$",
        b"=1+1",
        b"\\ud800",
        b"&a",
    ),
    *(b"*a", b"!!python/object:os.system", b"\x1b[31m", b"- ", b"true", b"~", b"\x85", b"\t"),
]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change a few places of a content."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 1, 2, 8])):
        place = rng.randrange(len(found) + 1)
        stop = min(len(found), place + rng.choice([1, 1, 2, 4, 16, 128]))
        match rng.randrange(6):
            case 0:
                found[place:place] = rng.choice(TOKENS)
            case 1:
                found[place:stop] = rng.choice(TOKENS)
            case 2:
                del found[place:stop]
            case 3:
                found[place:stop] = rng.randbytes(stop - place)
            case 4:
                found[place:place] = found[place:stop]
            case _:
                if rng.random() < 0.2:
                    del found[place:]
    return bytes(found)


CELLS: list[object] = [
    *(None, "", "x", "nan", "1", "true", "../x", "\x1b[2J", "a" * 3000, b"\xff\xfe"),
    *(-1, 0, 2.5, 1e308, float("inf"), 2**62),
    *("[]", "{}", "[1]", "null", '"s"', '{"a": {"b": []}}', '{"train": {}}', '[[1], {"x": null}]'),
]
"""What a cell of the store may hold that nobody wrote."""


def damage_file(path: Path, rng: random.Random) -> None:
    """Damage one file: this one, or one of this folder's."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    victim = rng.choice(files)
    victim.write_bytes(damage(victim.read_bytes(), rng))


def damage_cells(path: Path, rng: random.Random) -> None:
    """Give every cell of a column of the store, or every other one, a value that nobody wrote."""
    with contextlib.closing(sqlite3.connect(path / "sae_sweep.db")) as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        table = rng.choice([name for (name,) in connection.execute(names)])
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        key = "step" if table == "sweep_metric" else "rowid"
        where = rng.choice(["", f" WHERE {key} % 2 = 0"])
        with contextlib.suppress(sqlite3.IntegrityError):  # keys stay as they are
            values = (rng.choice(CELLS),)
            connection.execute(f"UPDATE {table} SET {rng.choice(columns)} = ?{where}", values)
        connection.commit()


class Kind(NamedTuple):
    """One kind of input."""

    path: Path
    """A whole example; a folder is damaged in one of its files."""
    read: Callable[[Path], object]
    damage: Callable[[Path, random.Random], None] = damage_file


def kinds(folder: Path) -> dict[str, Kind]:
    """Make a whole input of each kind."""
    runs = [
        {"name": f"run-{i}", "k": 2 ** (i % 3 + 3), "lr": 10 ** -(i % 4 + 2), "d_sae": 1024}
        | {"seed": i % 2, "fvu": 0.5 / (i + 1), "dead": 0.01 * i, "l0": 8.0, "state": "finished"}
        for i in range(12)
    ]
    lines = "".join(json.dumps(run) + "\n" for run in runs)
    cells = [",".join(runs[0]), *(",".join(map(str, run.values())) for run in runs)]
    nested = ["name,config,summary"]
    nested += [
        f"{run['name']},\"{{'k': {run['k']}, 'lr': {run['lr']}}}\",\"{{'fvu': {run['fvu']}}}\""
        for run in runs
    ]
    documents = "".join(json.dumps({"text": f"text {i}", "g": i % 3}) + "\n" for i in range(40))
    written = {
        "runs.csv": "\n".join(cells),
        "nested.csv": "\n".join(nested),
        "runs.jsonl": lines,
        "text.txt": "one line\nanother\n\n" * 30,
        "text.jsonl": documents,
        "choices/sweep/mine.yaml": "# @package _global_\ndefaults:\n  - smoke\nsweep:\n  name: mine"
        "\n  question: Does it?\n  space:\n    sae.k: {grid: [2, 4]}\ntrain:\n  steps: 20\n",
        "runs/a/config.json": '{"k": 4, "lr": 0.1}',
        "runs/a/metrics.json": '{"fvu": 0.4, "l0": 4}',
    }
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    parquet.write_table(pa.Table.from_pylist(runs), folder / "runs.parquet")
    (folder / "rows").mkdir()
    save_file(
        {"x": torch.randn(64, 4), "document": torch.arange(64)}, folder / "rows" / "a.safetensors"
    )
    outputs = folder / "outputs"
    words = ["executor=inline", f"outputs={outputs}", "train.steps=20", "sweep.name=mine"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if code := main(["+sweep=smoke", *words]):
            raise SystemExit(f"the sweep that makes the examples ended with {code}")
    shards = next((outputs / "activations").iterdir())
    (folder / "state").mkdir()
    checkpoint.save(
        folder / "state", "a" * 12, checkpoint.State({"w": torch.randn(4, 4)}, {"step": 3})
    )
    trial = min((outputs / "trials").iterdir())
    store = _alone(folder / "store", outputs / "sae_sweep.db")
    weights = _alone(folder / "weights", trial / "sae.safetensors", trial / "config.json")
    return {
        "csv": Kind(folder / "runs.csv", _import),
        "csv of dicts": Kind(folder / "nested.csv", _import),
        "jsonl": Kind(folder / "runs.jsonl", _import),
        "parquet": Kind(folder / "runs.parquet", _import),
        "run folders": Kind(folder / "runs", _import),
        "text": Kind(folder / "text.txt", _text),
        "text jsonl": Kind(folder / "text.jsonl", _text),
        "yaml": Kind(folder / "choices", _choices),
        "safetensors": Kind(folder / "rows", _rows),
        "checkpoint": Kind(folder / "state", lambda path: checkpoint.load(path, "a" * 12)),
        "manifest": Kind(_alone(folder / "shards", shards / "manifest.json"), read_manifest),
        "weights": Kind(weights, load),
        "sqlite": Kind(store, _store),
        "cells of a store": Kind(store, _store, damage_cells),
    }


def _alone(folder: Path, *files: Path) -> Path:
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    return folder


def _import(path: Path) -> object:
    return import_sweep(Request(path, "fuzz"))


def _text(path: Path) -> object:
    group = "g" if path.suffix == ".jsonl" else None
    config = ActivationsConfig(model="m", layer=0, text=str(path), group=group)
    texts.identify(config, sha256)
    return list(texts.documents(config))


def _choices(path: Path) -> object:
    return validate_run(compose(["+sweep=mine"], path).settings)


def _rows(path: Path) -> object:
    config = ActivationsConfig(files=str(path), train_tokens=32, validation_tokens=16)
    files.identify(config, path / "out")
    return [list(files.FilesReader(config).read("train", 0, 32))]


def _store(path: Path) -> object:
    with Reader(default_url(path)) as reader:
        status(reader.sweep("mine"), reader)
        return runs(load_study(reader.sweep("mine"))), reader.all_trials()


def _damaged(kind: Kind, folder: Path, rng: random.Random) -> Path:
    """Copy an example and damage it."""
    target = folder / kind.path.name
    (shutil.copytree if kind.path.is_dir() else shutil.copy)(kind.path, target)
    kind.damage(target, rng)
    return target


def fuzz(seconds: float, seed: int, keep: Path) -> int:
    """Damage and read until the time is over, at least `FEWEST` inputs; returns how many fail."""
    rng = random.Random(seed)
    ends: Counter[tuple[str, str]] = Counter()
    faults = rendered = 0
    with tempfile.TemporaryDirectory() as made:
        examples = kinds(Path(made))
        for kind in examples.values():
            kind.read(kind.path)  # whole, it is read
        start = time.monotonic()
        while time.monotonic() - start < seconds or sum(ends.values()) < FEWEST:
            name = rng.choice(sorted(examples))
            kind = examples[name]
            with tempfile.TemporaryDirectory() as scratch:
                path = _damaged(kind, Path(scratch), rng)
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        kind.read(path)
                        end = "read"
                        if kind.read in COMMANDS and ends[name, end] % RENDERED_EACH == 0:
                            rendered += 1
                            _render(COMMANDS[kind.read](path), Path(scratch))
                except BadInput:
                    end = "refused"
                except Exception:  # noqa: BLE001  (whatever it is, it is a fault)
                    end = "FAULT"
                    faults += 1
                    kept = keep / f"{name.replace(' ', '-')}-{seed}-{faults}"
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, kept)
                    sys.stdout.write(f"{kept}:\n{traceback.format_exc()}\n")
            ends[name, end] += 1
    for name in sorted(examples):
        told = ", ".join(f"{ends[name, end]} {end}" for end in ("read", "refused", "FAULT"))
        sys.stdout.write(f"{name:14} {told}\n")
    sys.stdout.write(
        f"{sum(ends.values())} damaged inputs, {rendered} rendered as reports: {faults} faults\n"
    )
    return faults


COMMANDS: dict[Callable[[Path], object], Callable[[Path], list[str]]] = {
    _import: lambda path: ["import", str(path), "--name", "fuzz"],
    _store: lambda path: ["report", "--store", default_url(path)],
}
"""What renders a report of an input."""


def _render(words: list[str], folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = analyse([*words, "--outputs", str(folder / "out")])
    if code not in (0, 2):
        raise AssertionError(f"{words} ended with {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    options = parser.parse_args()
    sys.exit(1 if fuzz(options.seconds, options.seed, options.keep) else 0)
