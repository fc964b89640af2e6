import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.activations.split import BLOCK_ROWS, shuffled, split_rows
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput


def config(train: int, validation: int) -> ActivationsConfig:
    return ActivationsConfig(files="x", train_tokens=train, validation_tokens=validation)


def test_documents_are_shuffled_the_same_way_each_time() -> None:
    order = shuffled(1000)
    assert sorted(order) == list(range(1000))
    assert order.tolist() == shuffled(1000).tolist() != list(range(1000))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=40),
    validation=st.integers(1, 20),
    train=st.integers(1, 20),
    interleaved=st.booleans(),
)
def test_the_splits_share_no_document_and_have_the_sizes_asked_for(
    sizes: list[int], validation: int, train: int, interleaved: bool
) -> None:
    documents = np.repeat(np.arange(len(sizes)), sizes) + 100
    if interleaved:
        documents = documents[np.random.default_rng(0).permutation(len(documents))]
    try:
        rows = split_rows(documents, len(documents), config(train, validation))
    except BadInput:
        # whole documents of at most 9 rows: refused only when rows are really short
        assert len(documents) < validation + 8 + train
        return
    assert len(rows["train"]) == train
    assert len(rows["validation"]) == validation
    assert not set(documents[rows["train"]]) & set(documents[rows["validation"]])
    assert len({*rows["train"], *rows["validation"]}) == train + validation


def test_without_documents_every_row_can_be_used() -> None:
    rows = split_rows(None, 1000, config(900, 100))
    assert sorted([*rows["train"], *rows["validation"]]) == list(range(1000))


def test_without_documents_validation_is_whole_blocks_from_all_over() -> None:
    n = 100 * BLOCK_ROWS
    rows = split_rows(None, n, config(1, 20 * BLOCK_ROWS))["validation"]
    blocks, sizes = np.unique(rows // BLOCK_ROWS, return_counts=True)
    assert set(sizes) == {BLOCK_ROWS}
    assert blocks.min() < 25
    assert blocks.max() >= 75


def test_too_few_rows_are_refused() -> None:
    message = (
        r"activations\.train_tokens=80 and activations\.validation_tokens=30: "
        r"the source gives 70 and 30 rows from separate documents: lower them or add data"
    )
    with pytest.raises(BadInput, match=message):
        split_rows(None, 100, config(80, 30))


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(BadInput, match="gives 0 and 30 rows"):
        split_rows(np.zeros(100, dtype=np.int64), 100, config(10, 30))
