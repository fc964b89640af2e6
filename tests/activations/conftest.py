"""Tiny models with random weights, saved as transformers saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FRAME, WORDS, saved

from sae_sweep.config import ActivationsConfig


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a BERT (framed, padded), a Llama (a first token only) and a GPT-2 (no frame)."""
    folders = {}
    for name, (model, specials, frame) in _kinds().items():
        folders[name] = saved(model, specials, tmp_path_factory.mktemp(name), frame)
    return folders


def _kinds() -> dict[str, tuple[Any, dict[str, str], str]]:
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 2}
    deep = {"num_hidden_layers": 3, "intermediate_size": 32}
    bert = BertModel(BertConfig(**sizes, **deep, max_position_embeddings=32))
    llama = LlamaModel(LlamaConfig(**sizes, **deep, pad_token_id=None))
    gpt2 = GPT2Model(GPT2Config(vocab_size=32, n_embd=16, n_head=2, n_layer=3, n_positions=32))
    bert_specials = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return {
        "bert": (bert, bert_specials, FRAME),
        "llama": (llama, {"bos_token": "<s>"}, "<s> $A"),
        "gpt2": (gpt2, {"eos_token": "<end>"}, "$A"),
    }


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """A text of 40 paragraphs, 1 to 40 words long."""
    path = tmp_path / "story.txt"
    paragraphs = [
        " ".join(WORDS[(7 * length + place) % len(WORDS)] for place in range(length))
        for length in range(1, 41)
    ]
    path.write_text("\n\n".join(paragraphs))
    return path


@pytest.fixture
def model_config(models: dict[str, Path], story: Path) -> Callable[..., ActivationsConfig]:
    """Settings of a small extraction, which a test may change."""

    def make(kind: str = "bert", **changes: Any) -> ActivationsConfig:
        settings = {
            "model": str(models[kind]),
            "layer": 2,
            "text": str(story),
            "context": 8,
            "train_tokens": 300,
            "validation_tokens": 100,
        }
        return ActivationsConfig(**{**settings, **changes})

    return make
