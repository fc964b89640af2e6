"""Members come, go and grow the table; what was put in comes out."""

import torch
from packed import NAN

from sae_sweep.kernels.fused import pages
from sae_sweep.kernels.fused.encode import encode
from sae_sweep.kernels.fused.encode_by_library import encode_by_library, runs_of
from sae_sweep.kernels.fused.table import SPARSE, Settings, Table, empty_table

PAGE, D = 16, 5


def state_of(n: int, seed: int) -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    shapes = {"w_enc": (n, D), "b_enc": (n,), "w_dec": (n, D), "b_dec": (D,), "threshold": (n,)}
    found = {
        prefix + name: torch.randn(shape, generator=make)
        for prefix in ("", "first.", "second.")
        for name, shape in shapes.items()
    }
    return found | {"silent_tokens": torch.randint(99, (n,), generator=make)}


def table_of(sizes: dict[int, int]) -> Table:
    """Members by slot; slot 1's first page was another's before."""
    table = empty_table(8, 4, D, page=PAGE, device="cpu")
    pages.occupy(table, 3, [3])
    for slot, n in sizes.items():
        pages.occupy(table, slot, [n])
        pages.put(table, slot, state_of(n, slot))
        if slot == 0:
            pages.vacate(table, 3)
    return table


def assert_holds(table: Table, sizes: dict[int, int]) -> None:
    for slot, n in sizes.items():
        found, expected = pages.take(table, slot), state_of(n, slot)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name


def test_what_was_put_in_comes_out_whoever_leaves_and_joins() -> None:
    sizes = {0: 22, 1: 40, 2: 16}
    table = table_of(sizes)
    assert table.member_pages[1, :3].tolist() == [0, 3, 4]  # the page that was given back first
    assert_holds(table, sizes)
    pages.vacate(table, 0)
    assert pages.free_slots(table) == [0, 3]
    assert pages.free_pages(table) == [1, 2, 6, 7]
    assert_holds(table, {1: 40, 2: 16})


def test_a_table_grows_around_its_members() -> None:
    sizes = {0: 22, 1: 40, 2: 16}
    table = pages.grown(table_of(sizes), 10, 6)
    assert_holds(table, sizes)
    assert pages.free_slots(table) == [3, 4, 5]
    assert pages.free_pages(table) == [6, 7, 8, 9]


def test_copies_for_products_follow_what_is_put_in() -> None:
    table = empty_table(2, 1, D, page=PAGE, device="cpu", operand=torch.bfloat16)
    pages.occupy(table, 0, [22])
    pages.put(table, 0, state_of(22, 0))
    assert torch.equal(table.operands.w_dec[:22], state_of(22, 0)["w_dec"].bfloat16())


def test_the_library_encodes_as_our_product_does() -> None:
    table, tokens = table_of({0: 22, 1: 40, 2: 16}), 6
    torch.manual_seed(0)
    centred = torch.randn(4, tokens, D)
    pre = [torch.full((tokens, 8 * PAGE), -torch.inf) for _ in range(2)]
    largest = [torch.full((tokens, 8), NAN) for _ in range(2)]
    settings = Settings(**{name: torch.zeros(4) for name in Settings._fields})._replace(
        form=torch.full((4,), SPARSE, dtype=torch.int32)
    )
    encode(table, settings, centred, pre[0], largest[0])
    encode_by_library(table, runs_of(table), centred, pre[1], largest[1])
    torch.testing.assert_close(pre[0], pre[1])
    owned = table.page_member >= 0
    torch.testing.assert_close(largest[0][:, owned], largest[1][:, owned])
