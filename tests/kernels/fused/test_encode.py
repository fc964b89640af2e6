"""The product over pages against the reference in float64."""

import pytest
import torch
from packed import SEVERAL, SOLO, Packed, Trial, batches, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused import encode as module
from sae_sweep.kernels.fused.encode import encode
from sae_sweep.kernels.fused.encode_by_library import encode_by_library, runs_of
from sae_sweep.kernels.fused.table import IDLE


def run(packed: Packed, tokens: int, *, library: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The input, pre-activations and maxima."""
    table = packed.table
    x = batches(packed.trials, tokens, table.biases.b_dec.shape[1])
    pages = len(table.page_member)
    pre, largest = poisoned(tokens, pages * table.page), poisoned(tokens, pages)
    centred = x - table.biases.b_dec[:, None]
    if library:
        encode_by_library(table, runs_of(table), centred, pre, largest)
    else:
        encode(table, packed.settings, centred, pre, largest)
    return x, pre, largest


@pytest.mark.parametrize(("tokens", "d"), [(1, 5), (4, 64), (9, 40), (70, 33)])
def test_encode_is_the_reference_of_each_member(tokens: int, d: int) -> None:
    packed = pack(SEVERAL, d)
    x, pre, _ = run(packed, tokens)
    weights, biases = packed.table.weights, packed.table.biases
    for slot, trial in enumerate(packed.trials):
        if trial.form == IDLE:
            continue
        own = packed.rows[slot]
        operands = (x[slot], weights.w_enc[own], weights.b_enc[own], biases.b_dec[slot])
        expected = reference.pre_activations(*(operand.double() for operand in operands))
        assert (pre[:, own].double() - expected).norm() <= 1e-5 * expected.norm()


def test_rows_that_are_no_latents_get_minus_infinity_and_others_pages_are_left() -> None:
    packed = pack(SEVERAL, 8)
    _, pre, _ = run(packed, 4)
    table = packed.table
    acting = torch.isin(
        table.page_member, torch.tensor([i for i, t in enumerate(SEVERAL) if t.form != IDLE])
    )
    nobodys = torch.full((pre.shape[1],), fill_value=True)
    nobodys[torch.cat(packed.rows)] = False
    acting_rows = acting.repeat_interleave(table.page)
    assert (pre[:, acting_rows & nobodys] == -float("inf")).all()
    assert pre[:, ~acting_rows].isnan().all()


def test_maxima_are_those_of_the_pages() -> None:
    packed = pack(SEVERAL, 8)
    _, pre, largest = run(packed, 70)
    expected = pre.view(70, -1, packed.table.page).amax(dim=2)
    torch.testing.assert_close(largest, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("tokens", "d"), [(9, 40), (70, 36), (130, 8)])
def test_bulk_copies_give_the_same_bits(tokens: int, d: int, monkeypatch) -> None:
    packed = pack(SEVERAL, d)
    _, pre, largest = run(packed, tokens)
    tile = module.FLOAT32
    monkeypatch.setattr(module, "programs_with_bulk_copies", lambda device: 3)
    monkeypatch.setattr(module, "ALIGNED", 1)
    monkeypatch.setattr(module, "BFLOAT16", tile)
    used = []
    by_copies = module.encode_by_bulk_copies
    monkeypatch.setattr(
        module, "encode_by_bulk_copies", lambda *given: used.append(by_copies(*given))
    )
    _, found, maxima = run(packed, tokens)
    assert len(used) == 1
    torch.testing.assert_close(found, pre, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(maxima, largest, rtol=0, atol=0, equal_nan=True)


def test_devices_without_bulk_copies_do_without(monkeypatch) -> None:
    on_cuda = torch.device("cuda", 7)
    assert module.programs_with_bulk_copies(torch.device("cpu")) == 0
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert module.programs_with_bulk_copies(on_cuda) == 0


def test_the_librarys_product_is_the_same_within_rounding() -> None:
    packed = pack(SEVERAL, 40)
    _, pre, largest = run(packed, 70)
    _, found, maxima = run(packed, 70, library=True)
    acting = packed.table.page_member.clone()
    for slot, trial in enumerate(packed.trials):
        if trial.form == IDLE:
            acting[acting == slot] = -1
    of_page = acting >= 0
    torch.testing.assert_close(maxima[:, of_page], largest[:, of_page])
    of_row = of_page.repeat_interleave(packed.table.page)
    torch.testing.assert_close(found[:, of_row], pre[:, of_row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("d", [7, 64])
def test_a_member_has_the_same_bits_alone(d: int) -> None:
    packed, alone = pack(SEVERAL, d), pack(SOLO, d, seed=3)
    assert not torch.equal(packed.rows[0], alone.rows[0])
    _, pre, _ = run(packed, 6)
    _, pre_alone, _ = run(alone, 6)
    assert torch.equal(pre[:, packed.rows[0]], pre_alone[:, alone.rows[0]])


def test_more_pages_than_a_group_are_all_encoded() -> None:
    packed = pack([Trial(module.GROUP * 16 * 2 + 5, 1)], 6)
    x, pre, _ = run(packed, 70)
    weights, biases = packed.table.weights, packed.table.biases
    own = packed.rows[0]
    expected = reference.pre_activations(
        x[0], weights.w_enc[own], weights.b_enc[own], biases.b_dec[0]
    )
    torch.testing.assert_close(pre[:, own], expected)


def test_tiles_are_chosen_by_type_batch_and_device_alone(monkeypatch) -> None:
    here = torch.device("cpu")
    assert module.tile_for(torch.float32, 4096, here) == module.FLOAT32
    assert module.tile_for(torch.bfloat16, 4096, here) == module.BFLOAT16
    assert module.tile_for(torch.bfloat16, 256, here) == module.BFLOAT16_FEW
    monkeypatch.setattr(module, "shared_bytes", lambda device: 99 * 1024)  # as on Ada
    assert module.tile_for(torch.bfloat16, 4096, here) == module.BFLOAT16_FEW
