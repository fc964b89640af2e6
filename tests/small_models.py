"""Saves tiny models and the tokeniser of a story's words."""

from pathlib import Path
from typing import Any

STORY = "the a of in to sun moon river stone bird sings falls over under cold warm"
WORDS = STORY.split()
FRAME = "[CLS] $A [SEP]"


def saved(model: Any, specials: dict[str, str], folder: Path, frame: str = FRAME) -> Path:
    """Save a model and a tokeniser of the story's words; gives the folder."""
    model.save_pretrained(folder)
    _tokenizer(specials, frame).save_pretrained(folder)
    return folder


def _tokenizer(specials: dict[str, str], frame: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["[UNK]", *specials.values(), *WORDS]
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(word, ids[word]) for word in specials.values()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **specials)
