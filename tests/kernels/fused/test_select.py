"""Selection over pages against the reference: exact, so every comparison is one of equality."""

from typing import NamedTuple

import pytest
import torch
from packed import NAN, SEVERAL, SOLO, Packed, Trial, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.candidates import PAGES
from sae_sweep.kernels.fused.select import TILE_PAGES, select
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE

pytestmark = pytest.mark.slow

TOKENS = 4
TILE = TILE_PAGES * 16


class Chosen(NamedTuple):
    packed: Packed
    rows: Tensor
    values: Tensor
    threshold: Tensor
    last_tie: Tensor
    overflow: Tensor

    def written_out(self, slot: int) -> Tensor:
        """A `SPARSE` member's latents, zeros included."""
        values, indices = self.packed.selected(slot, self.rows, self.values)
        n = self.packed.trials[slot].n
        return torch.zeros(len(values), n).scatter_add(1, indices, values)

    def masked(self, slot: int, pre: Tensor) -> Tensor:
        """What threshold and last tie say is chosen, zeros included."""
        bound, last = self.threshold[slot][:, None], self.last_tie[slot][:, None]
        ties = (pre == bound) & (bound > 0) & (self.packed.rows[slot] <= last)
        return pre.relu().where((pre.relu() > bound) | ties, 0.0)


def run(
    trials: list[Trial],
    pre: list[Tensor],
    capacity: int | None = None,
    reread: list[Tensor] | None = None,
) -> Chosen:
    """Select; `reread` is what is found where pre-activations are read again."""
    packed = pack(trials, 3)
    pages = len(packed.table.page_member)
    largest = by_rows(packed, pre).view(len(pre[0]), pages, -1).amax(dim=2)
    by_row = by_rows(packed, reread or pre)
    tokens = len(by_row)
    if capacity is None:
        capacity = max([trial.k for trial in trials if trial.form == SPARSE], default=0)
    shape = (len(trials), tokens)
    rows = poisoned(*shape, capacity, dtype=torch.int32)
    values, threshold = poisoned(*shape, capacity), poisoned(*shape)
    last_tie, overflow = poisoned(*shape, dtype=torch.int32), poisoned(len(trials)).int()
    select(
        packed.table, packed.settings, by_row, largest, rows, values, threshold, last_tie, overflow
    )
    return Chosen(packed, rows, values, threshold, last_tie, overflow)


def by_rows(packed: Packed, pre: list[Tensor]) -> Tensor:
    """What `encode` leaves: -inf where a row is no latent, anything where a page is free."""
    table = packed.table
    found = poisoned(len(pre[0]), len(table.page_member), table.page)
    found[:, table.page_member >= 0] = -float("inf")
    found = found.view(len(found), -1)
    for own, of_member in zip(packed.rows, pre, strict=True):
        found[:, own] = of_member
    return found


def expected(pre: Tensor, k: int) -> Tensor:
    if k == 0:
        return pre.relu()
    latents = reference.top_k(pre, k)
    return torch.zeros_like(pre).scatter(1, latents.indices, latents.values)


def assert_chosen(chosen: Chosen, pre: list[Tensor]) -> None:
    for slot, trial in enumerate(chosen.packed.trials):
        if trial.form == IDLE:
            continue
        wanted = expected(pre[slot], trial.k)
        assert torch.equal(chosen.masked(slot, pre[slot]), wanted)
        assert (chosen.threshold[slot] >= 0).all()
        if trial.form == SPARSE:
            assert torch.equal(chosen.written_out(slot), wanted)
            assert_listed(chosen, slot, wanted)


def assert_listed(chosen: Chosen, slot: int, wanted: Tensor) -> None:
    """Rows ascend, the active ones first, then padding."""
    assert (chosen.rows[slot].diff(dim=1).clamp(max=1) >= 0).all()
    active = chosen.values[slot] > 0
    assert torch.equal(active.sum(dim=1), (wanted > 0).sum(dim=1))
    assert (chosen.rows[slot].diff(dim=1)[active[:, 1:]] > 0).all()
    assert (chosen.values[slot][~active] == 0).all()
    no_row = len(chosen.packed.table.silent_tokens)
    assert (chosen.rows[slot][~active] == no_row).all()


SIZES = [(5, 1), (5, 5), (16, 3), (100, 7), (3 * TILE, 2), (3 * TILE, 300), (TILE + 9, TILE + 9)]
"""n, k: one page, as many as latents, few of many pages, more than are collected at once."""


@pytest.mark.parametrize("form", [SPARSE, DENSE])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_select_is_the_reference(n: int, k: int, form: int) -> None:
    torch.manual_seed(0)
    pre = [torch.randn(TOKENS, n)]
    assert_chosen(run([Trial(n, k, form)], pre), pre)


@pytest.mark.parametrize("form", [SPARSE, DENSE])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_equal_values_go_to_the_lowest_rows(n: int, k: int, form: int) -> None:
    torch.manual_seed(0)
    pre = [torch.randint(-3, 4, (TOKENS, n)).float()]
    assert_chosen(run([Trial(n, k, form)], pre), pre)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_a_token_whose_values_are_all_the_same_keeps_its_first_latents(n: int, k: int) -> None:
    pre = [torch.full((TOKENS, n), 0.5)]
    chosen = run([Trial(n, k)], pre)
    assert_chosen(chosen, pre)
    assert torch.equal(chosen.last_tie[0], chosen.packed.rows[0][k - 1].expand(TOKENS).int())


@pytest.mark.parametrize("positive", [0, 1, 4])
@pytest.mark.parametrize(("n", "k"), [(5, 5), (40, 6), (3 * TILE, 300)])
def test_fewer_positive_ones_than_k_are_all_chosen(n: int, k: int, positive: int) -> None:
    torch.manual_seed(0)
    pre = -torch.rand(TOKENS, n)
    pre[:, torch.randperm(n)[:positive]] *= -1
    chosen = run([Trial(n, k)], [pre])
    assert_chosen(chosen, [pre])
    assert (chosen.threshold == 0).all()


def test_neighbouring_floats_and_denormals_are_told_apart() -> None:
    n = TILE + 40
    keys = torch.arange(1, n + 1, dtype=torch.int32)
    large = (keys + 0x3F800000).view(torch.float32)
    pre = torch.stack(
        [keys.view(torch.float32), large, large.flip(0), keys.view(torch.float32) * 0]
    )
    for k in (1, 30, TILE + 7):
        assert_chosen(run([Trial(n, k)], [pre]), [pre])


def test_a_few_large_values_hide_no_small_ones() -> None:
    torch.manual_seed(0)
    pre = torch.randn(TOKENS, 3 * TILE).relu() * 1e-30
    pre[:, ::50] = 1e30
    for k in (10, 16, 40, 400):
        assert_chosen(run([Trial(3 * TILE, k)], [pre]), [pre])


@pytest.mark.parametrize("n", [20, 2 * TILE])
def test_l1_by_active_latents_keeps_all_that_are_positive(n: int) -> None:
    torch.manual_seed(0)
    pre = [torch.randn(TOKENS, n) - 1]
    chosen = run([Trial(n, 0)], pre, capacity=n)
    assert_chosen(chosen, pre)
    assert (chosen.threshold == 0).all()
    assert chosen.overflow.tolist() == [0]


def test_a_token_with_more_active_latents_than_fit_is_reported() -> None:
    pre = [torch.ones(TOKENS, 20), -torch.ones(TOKENS, 20), torch.ones(TOKENS, 5)]
    pre[1][2, 3:8] = 1
    trials = [Trial(20, 0, given_room=19), Trial(20, 0, given_room=5), Trial(5, 5)]
    chosen = run(trials, pre, capacity=5)
    assert chosen.overflow.tolist() == [1, 0, 0]
    assert torch.equal(chosen.rows[0], chosen.packed.rows[0][:5].int().expand(TOKENS, 5))
    assert torch.equal(chosen.written_out(1), pre[1].relu())


@pytest.mark.parametrize("k", [3, 600])
def test_more_pages_than_are_looked_at_at_a_time_all_count(k: int) -> None:
    torch.manual_seed(0)
    n = (PAGES + 3) * 16
    pre = [torch.randn(2, n)]
    assert_chosen(run([Trial(n, k)], pre), pre)


def test_pages_that_cannot_hold_one_of_the_largest_are_not_read() -> None:
    torch.manual_seed(0)
    pre, k = torch.randn(TOKENS, 3 * TILE), 5
    pages = pre.view(TOKENS, -1, 16)
    maxima = pages.amax(dim=2, keepdim=True)
    short = maxima < maxima.topk(k, dim=1).values[:, -1:]
    poison = torch.where(short, NAN, pages).view(TOKENS, -1)
    assert poison.isnan().sum() == TOKENS * (3 * TILE - k * 16)
    assert_chosen(run([Trial(3 * TILE, k)], [pre], reread=[poison]), [pre])


def test_a_program_takes_several_tokens_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_sweep.kernels.fused.select.PROGRAMS", 3)
    test_members_choose_for_themselves()


def test_members_choose_for_themselves() -> None:
    torch.manual_seed(0)
    pre = [torch.randn(TOKENS, trial.n) for trial in SEVERAL]
    chosen = run(SEVERAL, pre)
    assert_chosen(chosen, pre)
    idle = [i for i, trial in enumerate(SEVERAL) if trial.form == IDLE]
    assert chosen.threshold[idle].isnan().all()
    assert chosen.values[idle].isnan().all()
    alone = run(SOLO, pre[:1])
    assert torch.equal(chosen.written_out(0), alone.written_out(0))
    assert torch.equal(chosen.threshold[0], alone.threshold[0])


def test_a_member_full_of_nan_ends_and_leaves_the_others_alone() -> None:
    torch.manual_seed(0)
    trials = [Trial(3 * TILE, 300), Trial(40, 3), Trial(40, 3)]
    pre = [torch.full((TOKENS, trial.n), NAN) for trial in trials]
    pre[1] = torch.randn(TOKENS, 40)
    pre[2] = torch.randn(TOKENS, 40)
    pre[2][:, 7] = NAN
    chosen = run(trials, pre)
    assert torch.equal(chosen.written_out(1), expected(pre[1], 3))
    assert torch.equal(chosen.masked(1, pre[1]), expected(pre[1], 3))
