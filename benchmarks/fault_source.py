"""A sweep over a causal model whose activations the disk does not hold, killed at any moment."""

from pathlib import Path

STORY = "the a of in to sun moon river stone bird sings falls over under cold warm"
WORDS = STORY.split()
ROWS = 20_480
WIDTH = 16
A_TENTH = ROWS * (4 * WIDTH + 18) / 10 / 1e9
"""Of what all rows take on the disk, in GB: 18 bytes per row say where it comes from."""


def causal_model(folder: Path, blocks: int = 3) -> tuple[str, ...]:
    """Make a small causal model and a text; gives the settings of a cache of a tenth of its rows.

    Args:
        folder: an empty folder.
        blocks: of the model.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"n_embd": WIDTH, "n_head": 2, "n_layer": blocks, "n_positions": 32}
    GPT2Model(GPT2Config(vocab_size=32, **sizes)).save_pretrained(folder)
    ids = {word: number for number, word in enumerate(["[UNK]", "<end>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="<end>"
    ).save_pretrained(folder)
    chosen = torch.randint(len(WORDS), (1200, 20), generator=torch.Generator().manual_seed(0))
    documents = [" ".join(WORDS[one] for one in row) for row in chosen.tolist()]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return (
        *("activations=minilm", f"activations.model={folder}", "activations.layer=2"),
        *(f"activations.text={folder / 'text.txt'}", "activations.context=32"),
        *(f"activations.train_tokens={ROWS}", "activations.validation_tokens=1024"),
        *(f"activations.window_rows={ROWS // 25}", f"activations.cache_gb={A_TENTH:.3g}"),
    )
