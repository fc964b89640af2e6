"""Ownership of pages: members join, leave, and are copied out and in."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from sae_sweep.kernels.fused.table import FREE, Rows, Table, empty_table

BIAS = ("b_dec", "first.b_dec", "second.b_dec")
THRESHOLD = ("threshold", "first.threshold", "second.threshold")


def pages_needed(spans: Sequence[int], page: int) -> int:
    """Pages that hold spans of so many latents, each of which begins one."""
    return sum(-(-span // page) for span in spans)


def free_pages(table: Table) -> list[int]:
    """Pages without an owner, ascending."""
    return (table.page_member == FREE).nonzero()[:, 0].tolist()


def free_slots(table: Table) -> list[int]:
    """Slots without a member, ascending."""
    return (table.member_pages == FREE).all(dim=1).nonzero()[:, 0].tolist()


def occupy(table: Table, slot: int, spans: Sequence[int]) -> None:
    """Give a slot the first free pages, in place; their contents are whatever was there."""
    count = pages_needed(spans, table.page)
    pages = free_pages(table)[:count]
    assert len(pages) == count, "no room: the caller looks first"
    table.page_member[pages] = slot
    rest = iter(pages)
    for number, span in enumerate(spans):
        for start in range(0, span, table.page):
            page = next(rest)
            table.page_latents[page] = min(table.page, span - start)
            table.page_span[page] = number
    table.member_pages[slot, :count] = torch.tensor(
        pages, dtype=torch.int32, device=table.member_pages.device
    )


def vacate(table: Table, slot: int) -> None:
    """Free a slot and its pages, in place."""
    owned = table.page_member == slot
    table.page_member[owned] = FREE
    table.page_latents[owned] = 0
    table.page_span[owned] = 0
    table.member_pages[slot] = FREE


def row_ids(table: Table, slot: int) -> Int64[Tensor, " m"]:
    """Rows of a member, in the order of its latents."""
    pages = table.member_pages[slot].long()
    pages = pages[pages != FREE]
    offsets = torch.arange(table.page, device=pages.device)
    rows = pages[:, None] * table.page + offsets
    return rows[offsets < table.page_latents[pages][:, None]]


def parameters(table: Table, slot: int) -> dict[str, Shaped[Tensor, "..."]]:
    """A member's weights by name, copied out; a threshold where none is trained is 0."""
    rows = row_ids(table, slot)
    found = {name: tensor[rows] for name, tensor in table.weights._asdict().items()}
    found["threshold"] = table.thresholds.value[rows]
    return {**found, "b_dec": table.biases.b_dec[slot].clone()}


def take(
    table: Table, slot: int, device: torch.device | str | None = None
) -> dict[str, Shaped[Tensor, "..."]]:
    """All that the table holds of a member, by the names of a checkpoint, copied out.

    Args:
        table: of members.
        slot: of the member.
        device: where the copies go, one after the other; the table's own where None.
    """
    rows = row_ids(table, slot)
    found: dict[str, Tensor] = {}
    for prefix, part in _parts(table):
        for name, tensor in part._asdict().items():
            found[prefix + name] = tensor[rows].to(device or rows.device)
    for name, bias in zip(BIAS, table.biases, strict=True):
        found[name] = bias[slot].to(device or rows.device, copy=True)
    for name, threshold in zip(THRESHOLD, table.thresholds, strict=True):
        found[name] = threshold[rows].to(device or rows.device)
    found["silent_tokens"] = table.silent_tokens[rows].to(device or rows.device)
    return found


def put(table: Table, slot: int, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Write a member's state into its pages, in place; `take` reads the same.

    What `tensors` leaves out becomes 0, as at the beginning of training.
    """
    rows = row_ids(table, slot)
    device = rows.device
    for prefix, part in _parts(table):
        for name, tensor in part._asdict().items():
            found = tensors.get(prefix + name)
            tensor[rows] = 0.0 if found is None else found.detach().to(device)
    for name, bias in zip(BIAS, table.biases, strict=True):
        bias[slot] = tensors[name].detach().to(device) if name in tensors else 0.0
    for name, threshold in zip(THRESHOLD, table.thresholds, strict=True):
        threshold[rows] = tensors[name].detach().to(device) if name in tensors else 0.0
    silent = tensors.get("silent_tokens")
    table.silent_tokens[rows] = 0 if silent is None else silent.to(device)
    if table.operands.w_enc is not table.weights.w_enc:
        for operand, weight in zip(
            table.operands, (table.weights.w_enc, table.weights.w_dec), strict=True
        ):
            operand[rows] = weight[rows].to(operand.dtype)


def grown(table: Table, pages: int, members: int) -> Table:
    """Copy a table into one with more room; every member keeps slot and pages."""
    wide = empty_table(
        pages,
        members,
        table.weights.w_enc.shape[1],
        page=table.page,
        device=table.silent_tokens.device,
        operand=table.operands.w_enc.dtype,
    )
    for new, old in zip(_tensors(wide), _tensors(table), strict=True):
        new[tuple(slice(size) for size in old.shape)] = old
    return wide


def _parts(table: Table) -> Sequence[tuple[str, Rows]]:
    return ("", table.weights), ("first.", table.first), ("second.", table.second)


def _tensors(table: Table) -> Sequence[Tensor]:
    tensors: list[Tensor] = []
    for part in table:
        tensors += part if isinstance(part, tuple) else [part]
    return tensors
