"""Rows a second that reach training, beside SAELens' store and dictionary_learning's buffer.

    .venv-bench/bin/python -m benchmarks.activations_peers     # about 2 minutes on 2 cores

One GPT-2-like model made here, one text, windows of 128 tokens, float32. Each library, in a process
of its own, reads the residual after block 3 of 6 as it does for its own trainer, until it has
handed over the rows asked for in batches of 1,024; loading the model counts, imports do not. Ours
also writes the rows to disk, with their checks and origins, and reads them back shuffled.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.activations import causal_model
from sae_sweep.activations import Wanted, describe, open_activations, prepare, texts
from sae_sweep.config import ActivationsConfig, TrainConfig
from sae_sweep.train.source import batch

ROWS, BATCH, CONTEXT, LAYER, WIDTH = 131_072, 1024, 128, 3, 256
THREADS = 2
TEXT = "text.jsonl"


def write_text(folder: Path) -> None:
    """Lay down the text that all read."""
    found = texts.documents(ActivationsConfig(model="-", layer=0))
    rows = [json.dumps({"text": text}) for text, _ in found if text.strip()]
    (folder / TEXT).write_text("\n".join(rows))


def documents(model: str) -> list[str]:
    """The text, for peers."""
    lines = (Path(model) / TEXT).read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def ours(model: str, folder: Path) -> Callable[[], Iterator[int]]:
    """Extraction, storage and shuffled reading."""
    import transformers

    _ = transformers.AutoModel, transformers.AutoTokenizer, transformers.GPT2Model  # lazy imports

    def run() -> Iterator[int]:
        config = ActivationsConfig(
            model=model,
            layer=LAYER,
            text=str(Path(model) / TEXT),
            context=CONTEXT,
            packing="packed",
            train_tokens=ROWS,
            validation_tokens=BATCH,
        )
        one = Wanted(config, describe(config, folder))
        list(prepare([one], folder))
        activations = open_activations(one.folder(folder))
        for step in range(ROWS // BATCH):
            yield len(batch(activations, TrainConfig(batch_size=BATCH), step))

    return run


def saelens(model: str, _folder: Path) -> Callable[[], Iterator[int]]:
    """Its store, as its runner makes it."""
    from datasets import Dataset
    from sae_lens.load_model import load_model
    from sae_lens.training.activations_store import ActivationsStore

    def run() -> Iterator[int]:
        hook = f"transformer.h.{LAYER - 1}"
        store = ActivationsStore(
            model=load_model("AutoModelForCausalLM", model, device="cpu", hook_names=[hook]),
            dataset=Dataset.from_dict({"text": documents(model)}),
            streaming=False,
            hook_name=hook,
            hook_head_index=None,
            context_size=CONTEXT,
            d_in=WIDTH,
            n_batches_in_buffer=16,
            total_training_tokens=ROWS,
            store_batch_size_prompts=16,
            train_batch_size_tokens=BATCH,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
        )
        while True:
            yield len(store.next_batch())

    return run


def dictionary_learning(model: str, _folder: Path) -> Callable[[], Iterator[int]]:
    """Its buffer, by nnsight."""
    from dictionary_learning.buffer import ActivationBuffer
    from nnsight import LanguageModel
    from transformers import AutoTokenizer

    def run() -> Iterator[int]:
        tokenizer = AutoTokenizer.from_pretrained(model, pad_token="<end>")
        traced = LanguageModel(model, device_map="cpu", dispatch=True, tokenizer=tokenizer)
        buffer = ActivationBuffer(
            iter(documents(model) * 9),
            traced,
            traced.transformer.h[LAYER - 1],
            d_submodule=WIDTH,
            n_ctxs=128,
            ctx_len=CONTEXT,
            refresh_batch_size=16,
            out_batch_size=BATCH,
        )
        while True:
            yield len(next(buffer))

    return run


def bare(model: str, _folder: Path) -> Callable[[], Iterator[int]]:
    """The floor: three blocks of the model over full windows, nothing kept."""
    from transformers import AutoModel

    @torch.no_grad()
    def run() -> Iterator[int]:
        module = AutoModel.from_pretrained(model).eval()
        del module.h[LAYER:]
        windows = torch.zeros(2048 // CONTEXT, CONTEXT, dtype=torch.int64)
        while True:
            module(windows, use_cache=False)
            yield windows.numel()

    return run


SOURCES = {
    "the model alone": bare,
    "sae_sweep": ours,
    "SAELens": saelens,
    "dictionary_learning": dictionary_learning,
}


def measure(name: str, model: str) -> dict[str, float]:
    """Rows a second of one library, by the clock and by CPU time, its imports not counted."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        source = SOURCES[name](model, Path(folder))
        wall, cpu, rows = time.perf_counter(), time.process_time(), 0
        for count in source():
            rows += count
            if rows >= ROWS:
                break
        return {
            "rows": rows,
            "wall": rows / (time.perf_counter() - wall),
            "cpu": rows / (time.process_time() - cpu),
        }


def lm_model(folder: Path) -> str:
    """The benchmark's GPT-2 with a head, as peers want it."""
    from transformers import GPT2LMHeadModel

    causal_model(folder)
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder)
    write_text(folder)
    return str(folder)


def main() -> None:
    """Measure all, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.activations_peers",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--only", nargs=2, metavar=("LIBRARY", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(measure(*options.only)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = lm_model(Path(folder))
        for name in SOURCES:
            command = [sys.executable, "-m", "benchmarks.activations_peers", "--only", name, model]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = ran.stdout.strip().splitlines()
            found[name] = json.loads(lines[-1]) if ran.returncode == 0 else None
            if found[name] is None:
                print(f"{name}: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    print("| library | rows | rows/s, wall | rows/s, CPU time | ours / theirs, CPU time |")
    print("| --- | --- | --- | --- | --- |")
    for name, one in found.items():
        if one is None:
            print(f"| {name} | does not run here | | | |")
            continue
        ratio = found["sae_sweep"]["cpu"] / one["cpu"]
        print(
            f"| {name} | {one['rows']:,} | {one['wall']:,.0f} | {one['cpu']:,.0f} | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
