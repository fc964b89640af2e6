"""The planner's formula against what is allocated."""

import pytest
import torch

from sae_sweep.config import (
    BatchTopKConfig,
    JumpReluConfig,
    MatryoshkaConfig,
    SaeConfig,
    Source,
    TopKConfig,
    TrainConfig,
    Trial,
)
from sae_sweep.kernels.fused import dense, gradients, memory, update
from sae_sweep.kernels.fused.ahead import empty_ahead
from sae_sweep.kernels.fused.memory import packed_memory
from sae_sweep.kernels.fused.pages import pages_needed
from sae_sweep.kernels.fused.step import Step
from sae_sweep.kernels.fused.table import MOST_STEPS, PAGE, empty_table

N, D, BATCH = 1000, 256, 64


def tensors(*owners: object) -> int:
    """Bytes of all tensors that objects hold, each storage once."""
    found: dict[int, int] = {}
    stack: list[object] = list(owners)
    while stack:
        one = stack.pop()
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, tuple | list):
            stack += one
        elif hasattr(one, "__dict__"):
            stack += vars(one).values()
    return sum(found.values())


@pytest.mark.parametrize(
    ("sae", "active"),
    [
        (TopKConfig(n_latents=N, k=5, aux_coeff=0), 5),
        (TopKConfig(n_latents=N, k=100, aux_coeff=0), 0),
        (BatchTopKConfig(n_latents=N, k=5, aux_coeff=0), 20),
        (JumpReluConfig(n_latents=N), 0),
        (MatryoshkaConfig(n_latents=N, k=5, aux_coeff=0, prefixes="100/300/1000"), 20),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_formula_is_what_is_allocated(sae: SaeConfig, active: int, precision: str) -> None:
    train = TrainConfig(steps=9, batch_size=BATCH, kernels="fused", precision=precision)
    found = packed_memory(Trial("a" * 12, "a", Source("f", D, 1000, {}), sae, train))
    operand = torch.bfloat16 if precision == "bf16" else torch.float32
    table = empty_table(pages_needed(sae.spans, PAGE), 1, D, device="cpu", operand=operand)
    assert tensors(table) == pytest.approx(found.table, rel=0.01)
    ahead = empty_ahead(MOST_STEPS, 1, BATCH, torch.device("cpu"))
    step = Step(table, ahead, active or 1, exact=True, spans=len(sae.spans))
    if not active:
        step._gradients, step._latents = step._whole_rows()
    # members come by fours there
    others = ahead.order.nbytes - ahead.order[:, 0].nbytes + ahead.numbers.nbytes * 3 // 4
    held = tensors(step, ahead) - tensors(table) - others
    rows = PAGE * pages_needed(sae.spans, PAGE)
    transient = 4 * rows // update.ROWS * D
    if active:
        transient += BATCH * active * (32 + 2 * 4 * D // gradients.CHUNK)
    if sae.kind == "jumprelu":
        transient += 4 * 4 * rows * -(-BATCH // dense.tile_sides(operand)[0])
    assert held + 2 * transient == pytest.approx(found.step, rel=0.1)


def test_what_the_formula_copies_is_what_kernels_use() -> None:
    assert (memory.CHUNK, memory.ROWS) == (gradients.CHUNK, update.ROWS)
    sides = {kind.itemsize: dense.tile_sides(kind)[0] for kind in gradients.TOKENS}
    assert sides == memory.BLOCK
