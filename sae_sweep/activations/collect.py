"""Activations of a Hugging Face model: the only reader of transformers.

`activations.layer` counts as transformers' `hidden_states` does: 0 is the embeddings, i the output
of block i. Only the last entry can differ: decoders apply their final norm to `hidden_states[-1]`,
here it is the block's own output, as for every other layer.
"""

import contextlib
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from safetensors import SafetensorError
from torch import Tensor

from sae_sweep.activations import texts
from sae_sweep.activations.facts import FileFacts, checksums
from sae_sweep.activations.model_folder import model_files, model_folder
from sae_sweep.activations.partial import PartialModel
from sae_sweep.activations.reader import Identity, Rows, Split
from sae_sweep.activations.split import require_rows, shuffled
from sae_sweep.activations.windows import Cut, Windows, cut_windows
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

ACTING = {
    *("model", "revision", "layer", "hook", "context", "pooling", "position"),
    *("train_tokens", "validation_tokens"),
}
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
    with FileFacts(outputs / "cache" / "models.json", lambda path: _shape(path, config)) as shape:
        d, n_layers = shape(folder / "config.json")
    if config.layer is None or config.layer > n_layers:
        raise BadInput(
            f"activations.layer={config.layer}: {config.model} has layers 0 (embeddings) to "
            f"{n_layers}: choose one of them"
        )
    with checksums(outputs) as checksum:
        text_settings, text_content = texts.identify(config, checksum)
        content = {file.name: checksum(file) for file in model_files(folder)}
    return Identity(
        # a hook's width is known only when it runs: until then, as declared
        d=config.d if config.hook and config.d else d,
        settings={**config.model_dump(include=ACTING, exclude_none=True), **text_settings},
        content={"model": content, "text": text_content},
    )


class ModelReader:
    """Reads rows by running the model over the windows that hold them."""

    def __init__(self, config: ActivationsConfig) -> None:
        """Plan all rows from the text alone; the model is loaded when rows are first read.

        Raises:
            BadInput: for a text with too few tokens, or a context that the model cannot take.
        """
        self._config = config
        self._folder = model_folder(config)
        source = texts.read(config)
        self.group_names = source.group_names
        self._groups = source.groups
        tokenizer = _tokenizer(self._folder, config)
        self._prefix, self._suffix = _frame(tokenizer, config)
        self._pad_id = tokenizer.pad_token_id or 0
        cut = Cut(self._room(tokenizer), _special_ids(tokenizer), config.pooling, config.position)
        stream = _tokenised(tokenizer, source)
        validation = cut_windows(stream, config.validation_tokens, cut)
        train = cut_windows(stream, config.train_tokens, cut)
        require_rows(config, validation.n_rows, train.n_rows)
        self._windows: dict[Split, Windows] = {"train": train, "validation": validation}

    def read(self, split: Split, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows start to stop of a split."""
        windows = self._windows[split]
        covering = windows.covering(start, stop)
        for first in range(covering.start, covering.stop, WINDOWS_AT_ONCE):
            chosen = np.arange(first, min(first + WINDOWS_AT_ONCE, covering.stop))
            documents = windows.documents[chosen].repeat(np.diff(windows.first_rows)[chosen])
            begin = int(windows.first_rows[first])
            inside = slice(max(start - begin, 0), stop - begin)
            yield Rows(
                self._run(windows, chosen)[inside],
                torch.from_numpy(documents)[inside],
                torch.from_numpy(self._groups[documents])[inside],
            )

    @cached_property
    def _model(self) -> PartialModel:
        from transformers import AutoModel

        with _loading(self._config):
            model, loading = AutoModel.from_pretrained(
                self._folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # transformers fills what is missing with random numbers; poolers are never read
        missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
        if missing:
            raise BadInput(
                f"activations.model={self._config.model}: its weights lack {len(missing)} "
                f"parameters of a {type(model).__name__}, e.g. {missing[0]}: give a whole model"
            )
        assert self._config.layer is not None
        return PartialModel(model, self._config.layer, self._config.hook)

    def _room(self, tokenizer: Any) -> int:
        """Tokens of text that fit into a window."""
        n_special, most = len(self._prefix) + len(self._suffix), tokenizer.model_max_length
        architecture = _architecture(self._folder, self._config)
        most = min(most, getattr(architecture, "max_position_embeddings", most))
        if not n_special < self._config.context <= most:
            raise BadInput(
                f"activations.context={self._config.context}: {self._config.model} takes windows "
                f"of {n_special + 1} to {most} tokens, {n_special} of them special"
            )
        return self._config.context - n_special

    def _run(
        self, windows: Windows, chosen: Int64[np.ndarray, " windows"]
    ) -> Float32[Tensor, "rows d"]:
        """Run the model over some windows, in batches of similar length; give rows in order."""
        lengths = np.diff(windows.starts)[chosen] + len(self._prefix) + len(self._suffix)
        rows: dict[int, Tensor] = {}
        longest_first = np.argsort(-lengths, kind="stable")
        while len(longest_first):
            size = max(1, BATCH_TOKENS // int(lengths[longest_first[0]]))
            batch, longest_first = chosen[longest_first[:size]].tolist(), longest_first[size:]
            inputs = [[*self._prefix, *windows.text(one), *self._suffix] for one in batch]
            for window, states in zip(batch, self._model(inputs, self._pad_id), strict=True):
                rows[window] = self._pooled(windows, window, states)
        return torch.cat([rows[window] for window in chosen.tolist()])

    def _pooled(
        self, windows: Windows, window: int, states: Float32[Tensor, "length d"]
    ) -> Float32[Tensor, "rows d"]:
        """The rows of one window."""
        kept = torch.from_numpy(windows.kept[windows.span(window)])
        text = states[len(self._prefix) :][: len(kept)][kept]
        if windows.first_rows[window] == windows.first_rows[window + 1]:
            return text[:0]
        match self._config.pooling:
            case "token":
                return text
            case "mean":
                return text.mean(0, keepdim=True)
            case "position":
                assert self._config.position is not None
                return text[self._config.position][None]


def _tokenised(tokenizer: Any, source: texts.Texts) -> Iterator[tuple[int, list[int]]]:
    """Yield documents in shuffled order: their number and token ids, special ones not added."""
    order = shuffled(len(source.documents))
    for first in range(0, len(order), DOCUMENTS_AT_ONCE):
        numbers = order[first : first + DOCUMENTS_AT_ONCE].tolist()
        ids = tokenizer(
            [source.documents[number] or "" for number in numbers],
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        yield from zip(numbers, ids, strict=True)


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


def _special_ids(tokenizer: Any) -> Int64[np.ndarray, " special"]:
    """Ids that stand for no text; the unknown token does stand for some."""
    roles = ("bos", "eos", "cls", "sep", "pad")
    structural = {getattr(tokenizer, f"{role}_token_id") for role in roles}
    unknown = {tokenizer.unk_token_id} - structural
    return np.array(sorted(set(tokenizer.all_special_ids) - unknown), dtype=np.int64)


def _shape(config_file: Path, config: ActivationsConfig) -> tuple[int, int]:
    """Width and number of blocks of a model, from its configuration."""
    architecture = _architecture(config_file.parent, config)
    return architecture.hidden_size, architecture.num_hidden_layers


def _architecture(folder: Path, config: ActivationsConfig) -> Any:
    from transformers import AutoConfig

    with _loading(config):
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).get_text_config()


def _tokenizer(folder: Path, config: ActivationsConfig) -> Any:
    from transformers import AutoTokenizer

    with _loading(config):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextlib.contextmanager
def _loading(config: ActivationsConfig) -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal, and put its errors into one line."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"activations.model={config.model} cannot be loaded by transformers ({first_line}): "
            "give a folder with config.json, tokenizer files and .safetensors"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
