"""Models of many kinds: their layers are read, or the real reason is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import saved
from transformers import AutoModel

from sae_sweep.activations.collect import ModelReader, identify
from sae_sweep.activations.partial import text_part
from sae_sweep.activations.reader import joined
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
DEEP = {**SIZES, "num_hidden_layers": 3}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6}
VISION |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 16}
BART = {"vocab_size": 32, "d_model": 16, "encoder_layers": 2, "decoder_layers": 4}
BART |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
BART |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
AUDIO = {"num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 30}
AUDIO |= {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
POSITIONS = {"max_position_embeddings": 40}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("Bart", {**BART, **POSITIONS, "pad_token_id": 3}),
    "t5": ("T5", {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
           | {"num_layers": 2, "num_decoder_layers": 4, "decoder_start_token_id": 0}),
    "albert": ("Albert", {**DEEP, **POSITIONS, "embedding_size": 8}),
    "roberta": ("Roberta", {**DEEP, **POSITIONS, "pad_token_id": 3}),
    "longformer": ("Longformer", {**DEEP, "max_position_embeddings": 70, "attention_window": 16,
                                  "pad_token_id": 3}),
    "mamba": ("Mamba", {"vocab_size": 32, "hidden_size": 16, "state_size": 4}
              | {"num_hidden_layers": 3, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}),
    "llava": ("Llava", {"text_config": {"model_type": "llama", **DEEP, "pad_token_id": None},
                        "vision_config": {"model_type": "clip_vision_model", **VISION}}),
    "clip": ("CLIP", {"text_config": {**DEEP, **POSITIONS, "projection_dim": 16},
                      "vision_config": VISION, "projection_dim": 16}),
    "whisper": ("Whisper", {**BART, **AUDIO}),
    "xlnet": ("XLNet", {"vocab_size": 32, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}),
    "funnel": ("Funnel", {"vocab_size": 32, "d_model": 16, "block_sizes": [2, 2], "n_head": 2}
               | {"d_head": 8, "d_inner": 32, "num_decoder_layers": 1}),
    "xlm": ("XLM", {"vocab_size": 32, "emb_dim": 16, "n_layers": 3, "n_heads": 2, **POSITIONS}),
    "distilbert": ("DistilBert", {"vocab_size": 32, "dim": 16, "n_layers": 3, "n_heads": 2}
                   | {"hidden_dim": 32, **POSITIONS}),
}  # fmt: skip

Make = Callable[..., ActivationsConfig]


@pytest.fixture
def made(tmp_path: Path, story: Path) -> Make:
    def make(kind: str, **changes: Any) -> ActivationsConfig:
        import transformers

        torch.manual_seed(0)
        name, settings = KINDS[kind]
        config = getattr(transformers, f"{name}Config")(**settings)
        specials = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        folder = saved(getattr(transformers, f"{name}Model")(config), specials, tmp_path / kind)
        given = {"model": str(folder), "layer": 2, "text": str(story), "context": 8}
        counts = {"train_tokens": 60, "validation_tokens": 30}
        return ActivationsConfig(**given | counts | changes)

    return make


def read(config: ActivationsConfig, folder: Path) -> torch.Tensor:
    identity = identify(config, folder)
    pieces = ModelReader([config], folder).read("validation", 0, 30)
    rows = joined([rows for [rows] in pieces]).activation
    assert rows.shape == (30, identity.d)
    return rows


@pytest.mark.parametrize(
    "kind",
    ["bart", "t5", "albert", "roberta", "longformer", "mamba", "llava", "clip", "distilbert"],
)
def test_a_layer_is_what_transformers_calls_it(made: Make, tmp_path: Path, kind: str) -> None:
    config = made(kind, layer=1)
    rows = read(config, tmp_path)
    part = text_part(AutoModel.from_pretrained(config.model)).eval()
    reader = ModelReader([config], tmp_path)
    windows = reader._windows["validation"]
    ids = [*reader._prefix, *list(windows.text(0)), *reader._suffix]
    with torch.no_grad():
        out = part(torch.tensor([ids]), output_hidden_states=True).hidden_states
    states = out[0 if kind == "mamba" else 1][0]  # Mamba's list begins after the first block
    n = len(ids) - len(reader._prefix) - len(reader._suffix)
    expected = states[len(reader._prefix) :][:n]
    torch.testing.assert_close(rows[:n], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "part"), [("bart", "BartEncoder"), ("clip", "CLIPTextModel"), ("llava", "LlamaModel")]
)
def test_the_part_that_reads_text_is_said(
    made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, part: str
) -> None:
    read(made(kind), tmp_path)
    assert f"Model the part {part} is read; activations.hook reads another" in (
        capsys.readouterr().err
    )


def test_a_hook_reads_the_decoder(made: Make, tmp_path: Path) -> None:
    config = made("bart", hook="decoder.layers.{layer}.final_layer_norm")
    assert not torch.allclose(read(config, tmp_path), read(made("bart"), tmp_path))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("whisper", r"WhisperEncoder takes input_features, not text: choose a model that reads"),
        ("xlnet", r"layer=2 of XLNetModel gives \(8, 1, 16\) for \(1, 8\) tokens: .* with act"),
        ("funnel", r"FunnelModel does not run its blocks one after another: name a module with"),
        ("xlm", r"the outputs of XLMModel's 3 blocks are not the states of its layers: name the"),
    ],
)
def test_a_model_that_cannot_be_read_says_why(
    made: Make, tmp_path: Path, kind: str, reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        read(made(kind), tmp_path)


def test_the_limit_of_a_context_is_the_usable_one(made: Make, tmp_path: Path) -> None:
    # RoBERTa counts positions from pad_token_id + 1
    message = r"activations\.context=38: RobertaModel takes windows of at most 36 tokens: lower it"
    with pytest.raises(BadInput, match=message):
        read(made("roberta", context=38), tmp_path)
    read(made("roberta", context=36), tmp_path)


def test_weights_of_other_sizes_are_said(made: Make, tmp_path: Path) -> None:
    config = made("distilbert")
    path = tmp_path / "distilbert" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_dim": 64}))
    message = r"lin\d\.(weight|bias) is \[.*32.*\] in the weights and \[.*64.*\] by config\.json"
    with pytest.raises(BadInput, match=message):
        read(config, tmp_path)


def test_a_sentencepiece_tokeniser_says_what_it_needs(made: Make, tmp_path: Path) -> None:
    config = made("distilbert")
    (tmp_path / "distilbert" / "tokenizer.json").unlink()
    (tmp_path / "distilbert" / "spiece.model").write_bytes(b"no model")
    (tmp_path / "distilbert" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "XLNetTokenizer"}'
    )
    with pytest.raises(BadInput, match=r"SentencePiece file, .*: pip install sentencepiece proto"):
        ModelReader([config], tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": 3}'),
        ("config.json", b"[]"),
        ("tokenizer.json", b'{"model": 3}'),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_a_damaged_folder_is_one_message(
    made: Make, tmp_path: Path, name: str, content: bytes
) -> None:
    config = made("distilbert")
    (tmp_path / "distilbert" / name).write_bytes(content)
    with pytest.raises(BadInput, match=r"activations\.model=.*distilbert"):
        read(config, tmp_path)


def test_a_text_of_one_document_says_what_splits_it(made: Make, tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "inputs" / "text_line_per_document.txt"
    config = made("distilbert", text=str(data))
    with pytest.raises(BadInput, match=r"is one document .*\.text_split_by=line makes"):
        ModelReader([config], tmp_path)
    ModelReader([config.model_copy(update={"text_split_by": "line"})], tmp_path)
