"""Activations of a Hugging Face model: the only reader of transformers.

`activations.layer` counts as transformers' `hidden_states` does: 0 is the embeddings, i the output
of block i. Only the last entry can differ: decoders apply their final norm to `hidden_states[-1]`,
here it is the block's own output, as for every other layer.
"""

import contextlib
import json
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from sae_sweep.activations import texts
from sae_sweep.activations.disk import claimed, replacing
from sae_sweep.activations.facts import FileFacts, checksums
from sae_sweep.activations.model_folder import WEIGHTS, model_files, model_folder
from sae_sweep.activations.partial import PartialModel, Point, text_part
from sae_sweep.activations.reader import Identity, Origins, Rows, Split
from sae_sweep.activations.split import require_rows
from sae_sweep.activations.windows import Cut, Windows, cut_windows, read_windows
from sae_sweep.config import ActivationsConfig
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
HALVES = ("bfloat16", "float16")
SPLITS: tuple[Split, ...] = ("validation", "train")
PLAN_SCHEMA = 2
GROUPS, GROUP_NAMES = "groups.npy", "groups.json"
SECONDS_BETWEEN_LOOKS = 0.2
"""How often a plan that another process writes is looked for."""
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
    with FileFacts(memory, lambda path: _shape(path, config)) as shape:
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
    if (model_dtype := _model_dtype(config, checkpoint)) != "float32":
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
    dtype = _model_dtype(config, _shape(folder / "config.json", config)[2])
    points = list(dict.fromkeys(point for one in configs for point in _places(one)))
    model = PartialModel(_load_model(folder, config, dtype), points)
    windows = [[0] * config.context] * max(1, BATCH_TOKENS // config.context)
    model(windows[:1], 0, range(len(points)))
    began = time.perf_counter()
    for states in model(windows, 0, range(len(points))).values():
        states.cpu()  # waits for the device
    rows = len(windows) * (config.context if config.pooling == "token" else 1)
    return (time.perf_counter() - began) / rows


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
        self._places = [_places(one) for one in configs]
        self._points = list(dict.fromkeys(point for places in self._places for point in places))
        self._folder = model_folder(config)
        checkpoint = _shape(self._folder / "config.json", config)[2]
        self._dtype = _model_dtype(config, checkpoint)
        tokenizer = _tokenizer(self._folder, config)
        self._prefix, self._suffix = _frame(tokenizer, config)
        self._pad_id = tokenizer.pad_token_id or 0
        self._sample = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        cut = Cut(
            self._room(tokenizer),
            _special_ids(tokenizer),
            config.pooling,
            config.position,
            packed=config.packing == "packed",
            separator=_separator(tokenizer, config),
        )
        plan = outputs / "cache" / "texts" / self._plan_name(outputs)
        while not (plan / GROUPS).exists():
            with claimed(outputs / "cache" / "locks" / plan.name) as mine:
                if mine:
                    _write_plan(plan, config, tokenizer, cut)
            if not mine:
                time.sleep(SECONDS_BETWEEN_LOOKS)
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
        model = _load_model(self._folder, config, self._dtype)
        part = text_part(model)
        if part is not model:
            note(
                f"activations.model={config.model}: of its {type(model).__name__} the part "
                f"{type(part).__name__} is read; activations.hook reads another"
            )
        room = config.context - len(self._prefix) - len(self._suffix)
        trial = [*self._prefix, *np.resize(self._sample, room).tolist(), *self._suffix]
        with _loading(config):
            return PartialModel(model, self._points, trial)

    def _plan_name(self, outputs: Path) -> str:
        """What the plan depends on: the text, the tokeniser and how it is cut, not the weights."""
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
        architecture = _architecture(self._folder, self._config)
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


def _load_model(folder: Path, config: ActivationsConfig, dtype: str) -> Any:
    """Load a model's weights.

    Raises:
        BadInput: for weights that are damaged, lack a part, or are of another shape.
    """
    from transformers import AutoModel

    with _loading(config):
        model, loading = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their sizes
        )
    for name, theirs, ours in loading["mismatched_keys"]:
        raise BadInput(
            f"activations.model={config.model}: {name} is {list(theirs)} in the weights "
            f"and {list(ours)} by config.json: give files of one model"
        )
    # transformers fills what is missing with random numbers; poolers are never read
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
    if missing:
        raise BadInput(
            f"activations.model={config.model}: its weights lack {len(missing)} "
            f"parameters of a {type(model).__name__}, e.g. {missing[0]}: give a whole model"
        )
    return model


def _places(config: ActivationsConfig) -> list[Point]:
    """Where a source reads the model: its rows, and their targets where it has them."""
    assert config.layer is not None
    places = [Point(config.layer, config.hook)]
    if config.has_target:
        layer = config.layer if config.target_layer is None else config.target_layer
        places.append(Point(layer, config.target_hook))
    return places


def _write_plan(plan: Path, config: ActivationsConfig, tokenizer: Any, cut: Cut) -> None:
    """Tokenise the text and lay it down in windows; the groups of its documents come last."""
    source = texts.in_order(config)
    stream = _tokenised(tokenizer, source.documents)
    cut_windows(stream, config.validation_tokens, cut, plan / "validation")
    cut_windows(stream, config.train_tokens, cut, plan / "train")
    groups, names = source.groups()
    with replacing(plan / GROUP_NAMES) as temporary:
        temporary.write_text(json.dumps(names))
    with replacing(plan / GROUPS) as temporary, temporary.open("wb") as file:
        np.save(file, groups)


def _tokenised(
    tokenizer: Any, documents: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, list[int]]]:
    """Yield documents as their number and token ids, special ones not added."""
    while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
        ids = tokenizer(
            [text for _, text in some],
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        yield from zip([number for number, _ in some], ids, strict=True)


def _frame(tokenizer: Any, config: ActivationsConfig) -> tuple[list[int], list[int]]:
    """The special tokens that the tokeniser puts before and after a text."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(framed)):
        if framed[start : start + len(text)] == text:
            return framed[:start], framed[start + len(text) :]
    raise BadInput(
        f"activations.model={config.model}: its tokeniser turns 'a' into {text}, but with special "
        f"tokens into {framed}, so these cannot be told apart: choose another model"
    )


def _separator(tokenizer: Any, config: ActivationsConfig) -> tuple[int, ...]:
    """What stands between two packed documents: the token for the end of a text."""
    if config.packing != "packed":
        return ()
    ends = [one for one in (tokenizer.eos_token_id, tokenizer.sep_token_id) if one is not None]
    if not ends:
        raise BadInput(
            f"activations.packing=packed: the tokeniser of {config.model} has no token for the end "
            "of a text, so documents would run into each other: use activations.packing=cut"
        )
    return (ends[0],)


def _special_ids(tokenizer: Any) -> Int64[np.ndarray, " special"]:
    """Ids that stand for no text; the unknown token does stand for some."""
    roles = ("bos", "eos", "cls", "sep", "pad")
    structural = {getattr(tokenizer, f"{role}_token_id") for role in roles}
    unknown = {tokenizer.unk_token_id} - structural
    return np.array(sorted(set(tokenizer.all_special_ids) - unknown), dtype=np.int64)


def _shape(config_file: Path, config: ActivationsConfig) -> tuple[int, int, str]:
    """Width, number of blocks and precision of a model, from its configuration."""
    architecture = _architecture(config_file.parent, config)
    with _loading(config):
        checkpoint = str(architecture.dtype or "float32").removeprefix("torch.")
        return architecture.hidden_size, architecture.num_hidden_layers, checkpoint


def _model_dtype(config: ActivationsConfig, checkpoint: str) -> str:
    """The precision that the model runs in: on a GPU its checkpoint's, where none is asked for."""
    if config.model_dtype != "auto":
        return config.model_dtype
    return checkpoint if torch.cuda.is_available() and checkpoint in HALVES else "float32"


def _architecture(folder: Path, config: ActivationsConfig) -> Any:
    """The configuration of the part that reads text."""
    from transformers import AutoConfig

    with _loading(config):
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return whole if whole.is_encoder_decoder else whole.get_text_config()


def _tokenizer(folder: Path, config: ActivationsConfig) -> Any:
    from transformers import AutoTokenizer

    try:
        with _loading(config):
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except BadInput:
        if (folder / "tokenizer.json").exists() or not any(folder.glob("*.model")):
            raise
        raise BadInput(
            f"activations.model={config.model}: its tokeniser is a SentencePiece file, which "
            "transformers cannot read here: pip install sentencepiece protobuf, or save it as "
            "tokenizer.json"
        ) from None


WHOLE_FOLDER = "give a folder with config.json, tokenizer files and .safetensors"


@contextlib.contextmanager
def _loading(config: ActivationsConfig) -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal, and put its errors into one line."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    place = f"activations.model={config.model}"
    try:
        with (
            warnings.catch_warnings(),
            edge(place, WHOLE_FOLDER, "cannot be loaded by transformers"),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
