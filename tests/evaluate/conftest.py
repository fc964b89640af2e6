"""Tiny language models with random weights, their sources prepared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FRAME, WORDS, saved

from sae_sweep.activations import Wanted, describe, prepare
from sae_sweep.config import ActivationsConfig
from sae_sweep.evaluate import Source

MASKED = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def _model(kind: str) -> tuple[Any, dict[str, str], str]:
    import transformers as hf

    sizes = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    sizes |= {"intermediate_size": 32, "initializer_range": 0.5}  # so that every state matters
    bert = {**sizes, "max_position_embeddings": 32}
    torch.manual_seed(0)
    match kind:
        case "gpt2":
            config = hf.GPT2Config(
                vocab_size=32, n_embd=16, n_head=2, n_layer=3, n_positions=32, initializer_range=0.5
            )
            return hf.GPT2LMHeadModel(config), {"eos_token": "<end>"}, "$A"
        case "llama":
            config = hf.LlamaConfig(**sizes, pad_token_id=None)
            return hf.LlamaForCausalLM(config), {"bos_token": "<s>"}, "<s> $A"
        case "masked":
            return hf.BertForMaskedLM(hf.BertConfig(**bert)), MASKED, FRAME
        case "t5":
            config = hf.T5Config(
                vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2
            )
            return hf.T5Model(config), {"eos_token": "</s>", "pad_token": "[PAD]"}, "$A </s>"
        case _:
            return hf.BertModel(hf.BertConfig(**bert)), MASKED, FRAME


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model by its kind."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            network, specials, frame = _model(kind)
            made[kind] = saved(network, specials, tmp_path_factory.mktemp(kind), frame)
        return made[kind]

    return get


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """Windows of many lengths, so that batches are padded."""
    path = tmp_path / "story.txt"
    texts = [
        " ".join(WORDS[(7 * n + place) % len(WORDS)] for place in range(n)) for n in range(1, 41)
    ]
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture
def source(model: Callable[[str], Path], story: Path, tmp_path: Path) -> Callable[..., Source]:
    """A source whose activations are there."""

    def make(kind: str, windows: int = 8, **changes: Any) -> Source:
        settings = {"model": str(model(kind)), "layer": 2, "text": str(story), "context": 8}
        settings |= {"train_tokens": 300, "validation_tokens": 100, **changes}
        config = ActivationsConfig(**settings)
        wanted = Wanted(config, describe(config, tmp_path))
        for _ in prepare([wanted], tmp_path):
            pass
        return Source(wanted, windows, tmp_path)

    return make
