"""Activations of a Hugging Face model.

`activations.layer` counts as transformers' `hidden_states` does: 0 is the embeddings, i the output
of block i. Only the last entry can differ: decoders apply their final norm to `hidden_states[-1]`,
here it is the block's own output, as for every other layer.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from sae_sweep.activations import pretrained, texts
from sae_sweep.activations.facts import FileFacts, checksums
from sae_sweep.activations.model_folder import WEIGHTS, model_files, model_folder
from sae_sweep.activations.partial import PartialModel, Point, text_part
from sae_sweep.activations.reader import Identity, Origins, Rows, Split
from sae_sweep.activations.split import require_rows
from sae_sweep.activations.windows import Cut, Windows, cut_windows, read_windows
from sae_sweep.config import ActivationsConfig
from sae_sweep.disk import make_once, replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge, note
from sae_sweep.records import digest

ACTING = {
    *("model", "revision", "layer", "hook", "target_layer", "target_hook"),
    *("context", "pooling", "position", "train_tokens", "validation_tokens", "max_norm"),
}
SAMPLE = "a trial of the model"
CUTTING = {
    *("context", "pooling", "position", "train_tokens", "validation_tokens", "packing"),
}
SPLITS: tuple[Split, ...] = ("validation", "train")
PLAN_SCHEMA = 2
GROUPS, GROUP_NAMES = "groups.npy", "groups.json"
VALIDATION_DONE = "validation.json"
"""How many documents a complete validation split has taken."""
DOCUMENTS_AT_ONCE = 512
WINDOWS_AT_ONCE = 256
"""Windows that are sorted by length together, so that batches hold little padding."""
BATCH_TOKENS = 2048
"""Tokens of a forward pass, padding included."""


def identify(config: ActivationsConfig, outputs: Path) -> Identity:
    """The identity of a model's activations on a text; downloads a model that is not local.

    Raises:
        BadInput: for a model or text that is missing or cannot be read, or a layer out of range.
    """
    folder = model_folder(config)
    memory = outputs / "cache" / "architectures.json"
    with FileFacts(memory, lambda path: pretrained.read_shape(path, config)) as shape:
        d, n_layers, checkpoint = shape(folder / "config.json")
    for name in ("layer", "target_layer"):
        if (getattr(config, name) or 0) > n_layers:
            raise BadInput(
                f"activations.{name}={getattr(config, name)}: {config.model} has layers 0 "
                f"(embeddings) to {n_layers}: choose one of them"
            )
    with checksums(outputs) as checksum:
        text_settings, text_content = texts.identify(config, checksum)
        content = {file.name: checksum(file) for file in model_files(folder)}
    settings = {**config.model_dump(include=ACTING, exclude_none=True), **text_settings}
    if config.packing == "packed":
        settings["packing"] = config.packing
    if (model_dtype := pretrained.model_dtype(config, checkpoint)) != "float32":
        settings["model_dtype"] = model_dtype
    if config.target_hook is not None and config.target_layer == config.layer:
        del settings["target_layer"]  # as where it is not given
    return Identity(
        # a hook's width is known only when it runs: until then, as declared
        d=config.d if config.hook and config.d else d,
        settings=settings,
        content={"model": content, "text": text_content},
        has_target=config.has_target,
        dtype=model_dtype,
    )


def seconds_per_row(configs: Sequence[ActivationsConfig]) -> float:
    """Time of the model per row, from one batch of full windows: a lower bound of extraction's.

    Args:
        configs: of sources that one pass serves.
    """
    config = configs[0]
    folder = model_folder(config)
    dtype = pretrained.model_dtype(config, pretrained.read_shape(folder / "config.json", config)[2])
    points = list(dict.fromkeys(point for one in configs for point in points_of(one)))
    model = PartialModel(pretrained.load_model(folder, config, dtype), points)
    windows = [[0] * config.context] * max(1, BATCH_TOKENS // config.context)
    model(windows[:1], 0, range(len(points)))
    began = time.perf_counter()
    for states in model(windows, 0, range(len(points))).values():
        states.cpu()  # waits for the device
    rows = len(windows) * (config.context if config.pooling == "token" else 1)
    return (time.perf_counter() - began) / rows


class Inputs(NamedTuple):
    """Windows of the validation split as inputs of the whole model."""

    ids: list[Int64[np.ndarray, " length"]]
    """Token ids of each window, special ones included."""
    is_text: list[Bool[np.ndarray, " length"]]
    """Which of them give a row: those that are no special tokens."""
    pad_id: int
    mask_id: int | None
    """Id of the mask token of a masked language model."""


class ModelReader:
    """Reads rows by running the model over the windows that hold them.

    Sources that differ only in where the model is read share each forward pass.
    """

    def __init__(self, configs: Sequence[ActivationsConfig], outputs: Path) -> None:
        """Plan all rows from the text alone; the model is loaded when rows are first read.

        Args:
            configs: of the sources, equal but for layers and hooks.
            outputs: folder below which the plan, the text in windows of tokens, is kept.

        Raises:
            BadInput: for a text with too few tokens, or a context that the model cannot take.
        """
        config = configs[0]
        self._config = config
        self._places = [points_of(one) for one in configs]
        self._points = list(dict.fromkeys(point for places in self._places for point in places))
        self._folder = model_folder(config)
        checkpoint = pretrained.read_shape(self._folder / "config.json", config)[2]
        self._dtype = pretrained.model_dtype(config, checkpoint)
        tokenizer = pretrained.load_tokenizer(self._folder, config)
        self._prefix, self._suffix = pretrained.frame(tokenizer, config)
        self._tokenizer = tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        self._mask_id: int | None = tokenizer.mask_token_id
        self._sample = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        cut = Cut(
            self._room(tokenizer),
            pretrained.special_ids(tokenizer),
            config.pooling,
            config.position,
            packed=config.packing == "packed",
            separator=pretrained.separator(tokenizer, config),
        )
        plan = outputs / "cache" / "texts" / self._plan_name(outputs)
        lock = outputs / "cache" / "locks" / plan.name
        make_once(plan / GROUPS, lock, lambda: _write_plan(plan, config, tokenizer, cut))
        with edge(str(plan), "delete this folder and run again", "is damaged"):
            self._windows: dict[Split, Windows] = {
                split: read_windows(plan / split, cut) for split in SPLITS
            }
            self._groups = np.load(plan / GROUPS, mmap_mode="r")
            self.group_names: list[str] = json.loads((plan / GROUP_NAMES).read_text())
        counts = {split: windows.n_rows for split, windows in self._windows.items()}
        require_rows(config, counts["validation"], counts["train"], len(self._groups))

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop of a split, for each of the sources."""
        windows = self._windows[split]
        covering = windows.covering(start, stop)
        for first in range(covering.start, covering.stop, WINDOWS_AT_ONCE):
            chosen = range(first, min(first + WINDOWS_AT_ONCE, covering.stop))
            origins, documents = self._origins(windows, chosen)
            begin = int(windows.first_rows[first])
            inside = slice(max(start - begin, 0), stop - begin)
            wanted = {point for number in sources for point in self._places[number]}
            found = self._run(windows, chosen, [self._points.index(point) for point in wanted])
            states = {self._points[number]: rows[inside] for number, rows in found.items()}
            yield [
                Rows(
                    states[places[0]],
                    torch.from_numpy(documents)[inside],
                    torch.from_numpy(self._groups[documents])[inside],
                    states[places[1]] if len(places) > 1 else None,
                    Origins(*(torch.from_numpy(column)[inside] for column in origins)),
                )
                for places in (self._places[number] for number in sources)
            ]

    def inputs(self, most: int) -> Inputs:
        """The first windows of the validation split, at most so many, the longest first."""
        windows = self._windows["validation"]
        chosen = list(windows.covering(0, self._config.validation_tokens))[:most]
        found = [windows.text(one) for one in chosen]
        n_prefix, n_suffix = len(self._prefix), len(self._suffix)
        framed = [
            (
                np.concatenate([self._prefix, text, self._suffix]).astype(np.int64),
                np.pad(windows.kept(text), (n_prefix, n_suffix)),
            )
            for text in sorted(found, key=len, reverse=True)
        ]
        ids, is_text = (list(column) for column in zip(*framed, strict=True))
        return Inputs(ids, is_text, self._pad_id, self._mask_id)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token."""
        return pretrained.pieces(self._tokenizer, list(ids))

    def _origins(
        self, windows: Windows, chosen: range
    ) -> tuple[list[Int32[np.ndarray, " rows"]], Int32[np.ndarray, " rows"]]:
        """Token, position and window of the rows of some windows, and their documents."""
        counts = np.diff(windows.first_rows[chosen.start : chosen.stop + 1])
        numbers = np.arange(chosen.start, chosen.stop, dtype=np.int32).repeat(counts)
        found = windows.tokens(chosen, self._config.pooling, self._config.position)
        return [found.ids, found.places, numbers], found.documents

    @cached_property
    def _model(self) -> PartialModel:
        config = self._config
        model = pretrained.load_model(self._folder, config, self._dtype)
        part = text_part(model)
        if part is not model:
            note(
                f"activations.model={config.model}: of its {type(model).__name__} the part "
                f"{type(part).__name__} is read; activations.hook reads another"
            )
        room = config.context - len(self._prefix) - len(self._suffix)
        trial = [*self._prefix, *np.resize(self._sample, room).tolist(), *self._suffix]
        with pretrained.loading(config):
            return PartialModel(model, self._points, trial)

    def _plan_name(self, outputs: Path) -> str:
        """Name of the plan: it depends on text, tokeniser and windows, not on the weights."""
        with checksums(outputs) as checksum:
            settings, content = texts.identify(self._config, checksum)
            files = [file for file in model_files(self._folder) if file.suffix != WEIGHTS[1:]]
            tokenizer = {file.name: checksum(file) for file in files}
        acting = {name: value for name, value in settings.items() if name != "text"}
        cut = self._config.model_dump(include=CUTTING)
        return digest([PLAN_SCHEMA, content, tokenizer, acting, cut])

    def _room(self, tokenizer: Any) -> int:
        """Tokens of text that fit into a window."""
        n_special, most = len(self._prefix) + len(self._suffix), tokenizer.model_max_length
        architecture = pretrained.read_architecture(self._folder, self._config)
        positions = getattr(architecture, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:  # XLNet has -1: any
            most = min(most, positions)
        if not n_special < self._config.context <= most:
            raise BadInput(
                f"activations.context={self._config.context}: {self._config.model} takes windows "
                f"of {n_special + 1} to {most} tokens, {n_special} of them special"
            )
        return self._config.context - n_special

    def _run(
        self, windows: Windows, chosen: range, points: Collection[int]
    ) -> dict[int, Float[Tensor, "rows d"]]:
        """Run the model over some windows, in batches of similar length; give rows in order."""
        first_rows = windows.first_rows[chosen.start : chosen.stop + 1] - int(
            windows.first_rows[chosen.start]
        )
        n_text = np.diff(windows.starts[chosen.start : chosen.stop + 1])
        lengths = n_text + len(self._prefix) + len(self._suffix)
        rows: dict[int, Tensor] = {}
        longest_first = np.argsort(-lengths, kind="stable")
        while len(longest_first):
            size = max(1, BATCH_TOKENS // int(lengths[longest_first[0]]))
            batch, longest_first = longest_first[:size].tolist(), longest_first[size:]
            ids = [windows.text(chosen[one]) for one in batch]
            inputs = [np.concatenate([self._prefix, text, self._suffix]) for text in ids]
            kept = [windows.kept(text) for text in ids]
            places = np.concatenate([np.arange(*first_rows[one : one + 2]) for one in batch])
            for number, states in self._model(inputs, self._pad_id, points).items():
                found = self._pooled(states, kept).cpu()
                if number not in rows:
                    rows[number] = found.new_empty(int(first_rows[-1]), found.shape[1])
                rows[number][torch.from_numpy(places)] = found
        return rows

    def _pooled(
        self, states: Float[Tensor, "windows length d"], kept: list[Bool[np.ndarray, " _"]]
    ) -> Float[Tensor, "rows d"]:
        """The rows of a batch of windows, those of one window after those of the one before."""
        n_prefix = len(self._prefix)
        is_text = np.zeros(states.shape[:2], dtype=bool)
        for number, one in enumerate(kept):
            is_text[number, n_prefix : n_prefix + len(one)] = one
        text = states[torch.from_numpy(is_text).to(states.device)]
        if self._config.pooling == "token":
            return text
        windows = torch.split(text, [int(one.sum()) for one in kept])
        if self._config.pooling == "mean":
            pooled = [window.float().mean(0) for window in windows if len(window)]
        else:
            place = self._config.position
            assert place is not None
            pooled = [window[place] for window in windows if -len(window) <= place < len(window)]
        return torch.stack(pooled).to(text.dtype) if pooled else text[:0]


def points_of(config: ActivationsConfig) -> list[Point]:
    """The places of the model that a source reads: of its rows, and of their targets."""
    assert config.layer is not None
    places = [Point(config.layer, config.hook)]
    if config.has_target:
        layer = config.layer if config.target_layer is None else config.target_layer
        places.append(Point(layer, config.target_hook))
    return places


def _write_plan(plan: Path, config: ActivationsConfig, tokenizer: Any, cut: Cut) -> None:
    """Tokenise the text and write it in windows, then the groups of its documents.

    A validation split that is complete is kept: its documents are passed over.
    """
    plan.mkdir(parents=True, exist_ok=True)
    source = texts.in_order(config, plan)
    n_done, done = 0, plan / VALIDATION_DONE
    if done.exists():
        n_done = int(done.read_text())
    stream = _tokenised(tokenizer, source.documents, n_done)
    if not n_done:
        windows = cut_windows(stream, config.validation_tokens, cut, plan / "validation")
        with replacing(done) as temporary:
            temporary.write_text(str(len(np.unique(windows.documents))))
    cut_windows(stream, config.train_tokens, cut, plan / "train")
    groups, names = source.groups()
    with replacing(plan / GROUP_NAMES) as temporary:
        temporary.write_text(json.dumps(names))
    with replacing(plan / GROUPS) as temporary, temporary.open("wb") as file:
        np.save(file, groups)


def _tokenised(
    tokenizer: Any, documents: Iterator[tuple[int, str]], n_done: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield documents as their number and token ids, special ones not added.

    The first `n_done` are passed over.
    """
    while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
        n_passed = min(n_done, len(some))
        n_done, some = n_done - n_passed, some[n_passed:]
        if not some:
            continue
        ids = tokenizer(
            [text for _, text in some],
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        yield from zip([number for number, _ in some], ids, strict=True)
