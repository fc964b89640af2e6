"""Pretrained models, their configurations and tokenisers: the only reader of transformers."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from sae_sweep.activations.model_folder import POOLING
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge

HALVES = ("bfloat16", "float16")
WHOLE_FOLDER = "give a folder with config.json, tokenizer files and .safetensors"

Head = Literal["causal", "masked"]
"""What a language model's head predicts: the next token, or the masked ones."""

ENDINGS: dict[str, Head] = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
}
"""Endings of class names in config.json that have a language-model head."""


def load_model(folder: Path, config: ActivationsConfig, dtype: str, kind: Any = None) -> Any:
    """Load a model's weights.

    Args:
        folder: where they lie.
        config: names the model in messages.
        dtype: precision that they are brought to.
        kind: one of transformers' classes; AutoModel, which has no head, where None.

    Raises:
        BadInput: for weights that are damaged, lack a part, or are of another shape.
    """
    from transformers import AutoModel

    with loading(config):
        model, told = (kind or AutoModel).from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their sizes
        )
    for name, theirs, ours in told["mismatched_keys"]:
        raise BadInput(
            f"activations.model={config.model}: {name} is {list(theirs)} in the weights "
            f"and {list(ours)} by config.json: give files of one model"
        )
    # transformers fills what is missing with random numbers; poolers are never read
    missing = sorted(name for name in told["missing_keys"] if "pooler" not in name)
    if missing:
        raise BadInput(
            f"activations.model={config.model}: its weights lack {len(missing)} "
            f"parameters of a {type(model).__name__}, e.g. {missing[0]}: give a whole model"
        )
    return model


def frame(tokenizer: Any, config: ActivationsConfig) -> tuple[list[int], list[int]]:
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


def separator(tokenizer: Any, config: ActivationsConfig) -> tuple[int, ...]:
    """The end-of-text token, which separates packed documents.

    Raises:
        BadInput: documents are to be packed, and the tokeniser has no such token.
    """
    if config.packing != "packed":
        return ()
    ends = [one for one in (tokenizer.eos_token_id, tokenizer.sep_token_id) if one is not None]
    if not ends:
        raise BadInput(
            f"activations.packing=packed: the tokeniser of {config.model} has no token for the end "
            "of a text, so documents would run into each other: use activations.packing=cut"
        )
    return (ends[0],)


def special_ids(tokenizer: Any) -> Int64[np.ndarray, " special"]:
    """Ids of special tokens, without the unknown token."""
    roles = ("bos", "eos", "cls", "sep", "pad")
    structural = {getattr(tokenizer, f"{role}_token_id") for role in roles}
    unknown = {tokenizer.unk_token_id} - structural
    return np.array(sorted(set(tokenizer.all_special_ids) - unknown), dtype=np.int64)


def read_shape(config_file: Path, config: ActivationsConfig) -> tuple[int, int, str]:
    """Width, number of blocks and precision of a model, from its configuration."""
    read = read_architecture(config_file.parent, config)
    with loading(config):
        checkpoint = str(read.dtype or "float32").removeprefix("torch.")
        return read.hidden_size, read.num_hidden_layers, checkpoint


def model_dtype(config: ActivationsConfig, checkpoint: str) -> str:
    """The precision that the model runs in: on a GPU its checkpoint's, where none is asked for."""
    if config.model_dtype != "auto":
        return config.model_dtype
    return checkpoint if torch.cuda.is_available() and checkpoint in HALVES else "float32"


def read_architecture(folder: Path, config: ActivationsConfig) -> Any:
    """The configuration of the part that reads text."""
    from transformers import AutoConfig

    with loading(config):
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return whole if whole.is_encoder_decoder else whole.get_text_config()


def load_tokenizer(folder: Path, config: ActivationsConfig) -> Any:
    """Load a tokeniser.

    Raises:
        BadInput: for files that transformers cannot read.
    """
    from transformers import AutoTokenizer

    try:
        with loading(config):
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


@contextlib.contextmanager
def loading(config: ActivationsConfig) -> Iterator[None]:
    """Silence transformers' progress bars and warnings, and shorten its errors to one line."""
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


class Whole(NamedTuple):
    """A model with its language-model head."""

    model: Any
    """A transformers module, in eval mode."""
    head: Head | None
    """Its language-model head; None where it has none."""


def load_whole(folder: Path, config: ActivationsConfig, dtype: str) -> Whole:
    """Load a model with its language-model head, where its weights have one.

    config.json names the class that the weights were saved from: a head of another class would be
    random numbers.

    Raises:
        BadInput: for weights that are damaged, lack a part, or are of another shape.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    head = read_head(folder, config)
    if head is None:
        return Whole(load_model(folder, config, dtype).eval(), None)
    kind = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[head]
    return Whole(load_model(folder, config, dtype, kind).eval(), head)


def read_head(folder: Path, config: ActivationsConfig) -> Head | None:
    """The head that a model was saved with; None of models of more than one part, too."""
    from transformers import AutoConfig

    with loading(config):
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if whole.is_encoder_decoder or whole.get_text_config() is not whole:
        return None
    names = whole.architectures or []
    found = [head for name in names for end, head in ENDINGS.items() if name.endswith(end)]
    return found[0] if found else None


def pooled_by(folder: Path) -> Literal["mean", "cls"]:
    """How a sentence encoder's output is pooled, by the file that sentence-transformers reads.

    The mean over all tokens of a window, special ones included, where there is no such file.
    """
    try:
        told = json.loads((folder / POOLING).read_text(encoding="utf-8"))
        return "cls" if told.get("pooling_mode_cls_token") else "mean"
    except (OSError, ValueError, AttributeError):
        return "mean"


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token within a text, leading space included."""
    (first, *_) = tokenizer("a", add_special_tokens=False)["input_ids"]
    plain = {"clean_up_tokenization_spaces": False}
    alone = len(tokenizer.decode([first], **plain))
    return [tokenizer.decode([first, one], **plain)[alone:] for one in ids]
