"""A small causal language model, trained here on python-docs: a sweep over it needs no model hub.

    python sweeps/downstream/model.py outputs/cache/downstream_model

GPT-2's architecture, four blocks of width 128, over byte-level BPE of 2,048 tokens. The first tenth
of the documents, in the order in which a sweep takes them, is held out: a sweep's validation
windows come from there, so that their loss is that of text which the model has not seen.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_sweep.activations.texts import in_order
from sae_sweep.config import ActivationsConfig

END = "<|endoftext|>"
"""Stands before every document."""
VOCABULARY, CONTEXT, WIDTH, BLOCKS, HEADS = 2048, 128, 128, 4, 4
BATCH, RATE, WARMUP = 16, 3e-3, 50
HELD_OUT = 0.1


def texts() -> tuple[list[str], list[str]]:
    """The documents to learn from, and those that are held out."""
    config = ActivationsConfig(model="none", layer=0, text="python-docs")
    documents = [text for _, text in in_order(config).documents]
    n_held_out = round(HELD_OUT * len(documents))
    return documents[n_held_out:], documents[:n_held_out]


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts `END` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=CONTEXT
    )


def blocks(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    """All documents one after the other, cut into rows of `CONTEXT` tokens."""
    ids = [token for one in tokenizer(documents, verbose=False)["input_ids"] for token in one]
    n = len(ids) // CONTEXT
    return torch.tensor(ids[: n * CONTEXT]).reshape(n, CONTEXT)


def loss(model: GPT2LMHeadModel, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats."""
    logits = model(input_ids=rows).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def mean_loss(model: GPT2LMHeadModel, rows: torch.Tensor) -> float:
    """The loss over all rows."""
    model.eval()
    found = [float(loss(model, part)) * len(part) for part in rows.split(BATCH)]
    model.train()
    return sum(found) / len(rows)


def rate(step: int, steps: int) -> float:
    """Learning rate: a linear warm-up, then half a cosine to a tenth."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return RATE * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def main() -> None:
    """Train the model, save it as transformers does, and say its loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(0)
    documents, held_out = texts()
    tokenizer = train_tokenizer(documents)
    rows, unseen = blocks(tokenizer, documents), blocks(tokenizer, held_out)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=BLOCKS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.1)
    passes = math.ceil(arguments.steps * BATCH / len(rows))
    order = torch.cat([torch.randperm(len(rows)) for _ in range(passes)])
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, arguments.steps)
        found = loss(model, rows[order[step * BATCH : (step + 1) * BATCH]])
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval().save_pretrained(arguments.to)
    tokenizer.save_pretrained(arguments.to)
    print(
        f"{arguments.to}: {rows.numel():,} tokens to learn from, {unseen.numel():,} held out; "
        f"held-out loss {mean_loss(model, unseen):.3f} nats/token of "
        f"{math.log(VOCABULARY):.3f}, last batch {found.item():.3f}; "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
