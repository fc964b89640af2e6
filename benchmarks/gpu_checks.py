"""Are the fused kernels right on this device? Gradients, selection, optimiser; and equal bits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu_cases import (
    FULL,
    Packs,
    RandomRows,
    Row,
    Selection,
    Shape,
    fetching,
    released,
    selection,
    settle,
    without_graphs,
)
from sae_sweep.config import TopKConfig, Trial
from sae_sweep.kernels import reference
from sae_sweep.kernels.fused import pages
from sae_sweep.kernels.fused.table import SPARSE
from sae_sweep.train.chunk import numbers_at
from sae_sweep.train.pack import Packed
from sae_sweep.train.schedule import sparsity_scale
from sae_sweep.train.source import batch

LIMITS = {"fp32": 2e-5, "bf16": 1e-2}
"""Largest distance of a gradient from the reference's on the same selection, over its norm."""
FLOAT32 = {"second moments": 2e-5, "parameters": 2e-6}
"""Limits of what is float32 in every precision: Adam's results, given its gradient and moments."""

NAMES = ("w_enc", "b_enc", "w_dec", "b_dec")
State = Mapping[str, Tensor]


class Case(NamedTuple):
    """A kind of training to check."""

    name: str
    shape: Shape
    sae: dict[str, Any] | None = None
    sparse_l1: bool = False
    exact: bool = True


SPARSE_CASE = Shape(2048, 16_384, 64, 1024)
CASES = (
    Case("TopK sparse, full size", FULL),
    Case("TopK sparse", SPARSE_CASE),
    Case("TopK dense", Shape(512, 2048, 100, 512)),
    Case("AuxK", Shape(768, 4096, 25, 512), {"kind": "topk", "k": 25, "aux_coeff": 1 / 32}),
    Case("L1 dense", Shape(768, 8192, 1, 1024), {"kind": "l1", "l1_alpha": 1.0}),
    Case("L1 sparse", Shape(768, 8192, 1, 1024), {"kind": "l1", "l1_alpha": 1.0}, sparse_l1=True),
    Case("TopK, the library's product", SPARSE_CASE, exact=False),
    Case("TopK, a width of 5120", Shape(5120, 4096, 32, 256)),
)


def distance(found: Tensor, expected: Tensor) -> float:
    """Distance over norm, in float64."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm()).item()


def correctness(cases: tuple[Case, ...] = CASES) -> Iterator[Row]:
    """Check one update launched from the host, and one replayed, of every case and precision."""
    for precision in ("bf16", "fp32"):
        for case in cases:
            released()
            yield from checked(case, precision)


def checked(case: Case, precision: str) -> Iterator[Row]:
    """Check a case's first update, launched kernel by kernel, and its third, replayed."""
    shape, rows = case.shape, RandomRows(case.shape.d, 8 * case.shape.batch)
    settings = {"precision": precision, "reproducible": case.exact, "lr_warmup_fraction": 0.0}
    trial = settle(shape, steps=10**5, sae=case.sae, **settings)
    for update, mode in ((1, "launched"), (3, "replayed")):
        with without_graphs() if mode == "launched" else nullcontext():
            packs = Packs([trial], rows)
            prepare(case, packs, rows, trial)
            if update > 1:
                packs.advance(update - 1)
            worst = compared(packs, rows, trial)
        selected = worst.pop("selected as the kernels' own pre-activations demand")
        recall = worst.pop("recall of float64's selection")
        wrong = [
            name for name, away in worst.items() if not away <= FLOAT32.get(name, LIMITS[precision])
        ]
        if not selected:
            wrong.append("selection")
        if not packs.recorded:
            wrong.append("no graph")
        yield {
            "case": case.name,
            "shape": str(shape),
            "precision": precision,
            "update": mode,
            **worst,
            "recall": recall,
            "limit": LIMITS[precision],
            "verdict": f"WRONG: {', '.join(wrong)}" if wrong else "ok",
        }


def prepare(case: Case, packs: Packs, rows: RandomRows, trial: Trial) -> None:
    """Make a third of the latents dead for AuxK; begin L1 with few active latents if asked."""
    (packed,) = packs.members
    state = present(packed)
    if isinstance(trial.sae, TopKConfig) and trial.sae.aux_coeff > 0:
        silent = state["silent_tokens"].clone()
        silent[::3] = trial.train.dead_window_tokens
        packs.alter(packed, silent_tokens=silent)
    if case.sparse_l1:
        x = batch(rows, trial.train, 0)
        pre = reference.pre_activations(x, *(state[name] for name in NAMES if name != "w_dec"))
        density = 0.004
        shift = pre.flatten()[:: max(1, pre.numel() // 10**6)].quantile(1 - density)
        room = min(trial.n_latents, int(8 * density * trial.n_latents) + 8)
        packs.alter(packed, b_enc=-shift.expand(trial.n_latents), form=torch.tensor([SPARSE, room]))


def present(packed: Packed) -> State:
    """A member's weights and moments, copied on the device."""
    return pages.take(packed.pack.table, packed.slot)


def compared(packs: Packs, rows: RandomRows, trial: Trial) -> dict[str, float]:
    """Make one update; compare each of its parts with the reference in float64."""
    ((packed, made),) = packs.members.items()
    before = present(packed)
    packs.advance(1)
    after, chosen = present(packed), selection(packed)
    x = batch(rows, trial.train, made)
    pre, gradients = reference_gradients(trial, made + 1, x, before, chosen)
    found: dict[str, float] = {"pre-activations": distance(chosen.pre, pre)}
    beta1, beta2 = trial.train.beta1, trial.train.beta2
    moments, steps = [], []
    for name in NAMES:
        first, second = after[f"first.{name}"].double(), after[f"second.{name}"].double()
        gradient = (first - beta1 * before[f"first.{name}"].double()) / (1 - beta1)
        found[f"grad {name}"] = distance(gradient, gradients[name])
        expected = beta2 * before[f"second.{name}"].double() + (1 - beta2) * gradient.square()
        moments.append(distance(second, expected))
        steps.append(step_distance(trial, made + 1, name, before, after))
    found |= {"second moments": max(moments), "parameters": max(steps)}
    wanted = wanted_selection(trial, pre)
    found["recall of float64's selection"] = (
        ((wanted & chosen.chosen).sum() / wanted.sum()).item() if wanted.any() else 1.0
    )
    own = wanted_selection(trial, chosen.pre)
    found["selected as the kernels' own pre-activations demand"] = float(
        torch.equal(own, chosen.chosen)
    )
    return found


def wanted_selection(trial: Trial, pre: Tensor) -> Tensor:
    """Which latents are active, by these pre-activations."""
    if not isinstance(trial.sae, TopKConfig):
        return pre > 0
    latents = reference.top_k(pre, trial.sae.k)
    chosen = torch.zeros_like(pre, dtype=torch.bool).scatter(1, latents.indices, value=True)
    return chosen & (pre > 0)


def reference_gradients(
    trial: Trial, step: int, x: Tensor, state: State, own: Selection
) -> tuple[Tensor, dict[str, Tensor]]:
    """Differentiate the loss in float64, on the kernels' selection; returns pre-activations too."""
    weights = {name: state[name].double().requires_grad_() for name in NAMES}
    x = x.double()
    pre = reference.pre_activations(x, weights["w_enc"], weights["b_enc"], weights["b_dec"])
    f = pre * own.chosen
    x_hat = reference.dense_decode(f, weights["w_dec"], weights["b_dec"])
    loss = reference.reconstruction_loss(x, x_hat)
    if isinstance(trial.sae, TopKConfig):
        if trial.sae.aux_coeff > 0:
            dead = state["silent_tokens"] >= trial.train.dead_window_tokens
            aux = _aux_k(x - x_hat, (pre, own.pre), dead, weights["w_dec"])
            loss = loss + trial.sae.aux_coeff * aux
    else:
        l1_weight = reference.l1_penalty(f, None if trial.sae.unit_rows else weights["w_dec"])
        share = sparsity_scale(step, trial.steps, trial.train.l1_warmup_fraction)
        loss = loss + trial.sae.l1_alpha * share * l1_weight
    loss.backward()
    gradients = {name: weight.grad for name, weight in weights.items()}
    if trial.sae.unit_rows:
        reference.remove_parallel(gradients["w_dec"], weights["w_dec"].detach())
    return pre.detach(), gradients


def _aux_k(residual: Tensor, pres: tuple[Tensor, Tensor], dead: Tensor, w_dec: Tensor) -> Tensor:
    """`reference.aux_k_loss`, the dead latents chosen by the kernels' own pre-activations."""
    pre, own = (one[:, dead] for one in pres)
    strongest = reference.top_k(own, min(max(1, residual.shape[1] // 2), own.shape[1]))
    chosen = torch.zeros_like(own).scatter(1, strongest.indices, 1.0) * (own > 0)
    target = residual.detach()
    error = (target - (pre * chosen) @ w_dec[dead]).square().sum()
    return error / (target - target.mean(dim=0)).square().sum()


def step_distance(trial: Trial, step: int, name: str, before: State, after: State) -> float:
    """How far a parameter is from what its own moments after the update demand."""
    step_size, correction = numbers_at(trial, step)[:2]
    first, second = after[f"first.{name}"].double(), after[f"second.{name}"].double()
    old = before[name].double()
    expected = old - step_size * first / (second.sqrt() / correction + 1e-8)
    if trial.sae.unit_rows and name == "w_dec":
        reference.normalise_rows(expected)
    return distance(after[name], expected)


BIT_STEPS = 50
BIT_CASES = (
    Case("TopK sparse", Shape(768, 4096, 25, 1000)),
    Case("TopK dense", Shape(512, 2048, 100, 512)),
    Case("AuxK", Shape(768, 4096, 25, 512), {"kind": "topk", "k": 25, "aux_coeff": 1 / 32}),
    Case("L1", Shape(768, 4096, 1, 512), {"kind": "l1", "l1_alpha": 4.0}),
)
"""The first is encoded by bulk copies, whose last block of each member's tokens reads its
neighbour's."""

BIT_SHAPE = Shape(768, 4096, 25, 512)
FURTHER_BIT_CASES = (
    Case("BatchTopK", BIT_SHAPE, {"kind": "batchtopk", "k": 25}),
    Case("Matryoshka", BIT_SHAPE, {"kind": "matryoshka", "k": 25}),
    Case("JumpReLU", BIT_SHAPE, {"kind": "jumprelu", "target_l0": 25}),
    Case(
        "usage, always on",
        BIT_SHAPE,
        {
            **{"kind": "topk", "k": 25, "aux_kind": "usage", "aux_coeff": 1, "aux_target": 0.01},
            **{"always_on_coeff": 1, "always_on_threshold": 0.1},
        },
    ),
)


def further_bits() -> Iterator[Row]:
    """`bits` of the other fused kinds and losses."""
    yield from bits(FURTHER_BIT_CASES)


def bits(cases: tuple[Case, ...] = BIT_CASES, steps: int = BIT_STEPS) -> Iterator[Row]:
    """A trial's state after some updates: again, without graphs, in company, joined late."""
    for precision in ("bf16", "fp32"):
        for case in cases:
            released()
            shape, rows = case.shape, RandomRows(case.shape.d, 8 * case.shape.batch)
            train = {"precision": precision, "dead_window_tokens": 4 * shape.batch}
            trial = settle(shape, steps=steps, sae=case.sae, **train)
            others = company(case, trial, train)
            alone = after_steps(rows, [trial], 0, steps)
            ways = {
                "again": after_steps(rows, [trial], 0, steps),
                "without graphs": after_steps(rows, [trial], 0, steps, way=without_graphs),
                "rows fetched": after_steps(rows, [trial], 0, steps, way=fetching),
                "in company": after_steps(rows, [trial, *others], 0, steps),
                "joined late": after_steps(rows, [*others, trial], steps // 3, steps),
            }
            yield {
                "case": case.name,
                "shape": str(shape),
                "precision": precision,
                "updates": steps,
                **{way: differing(alone, found) or "equal" for way, found in ways.items()},
                "verdict": (
                    "WRONG" if any(differing(alone, found) for found in ways.values()) else "ok"
                ),
            }


def company(case: Case, trial: Trial, train: Mapping[str, Any]) -> list[Trial]:
    """Two other trials, one of each form: kernels are compiled for the forms that are there."""
    n = case.shape.n_latents
    whole = case.shape._replace(k=max(1, n // 128))
    part = whole._replace(n_latents=n // 2 + 3)
    by_active, by_rows = None, {"kind": "l1", "l1_alpha": 1.0}
    if len(trial.sae.spans) > 1:  # nested dictionaries share no other's pack
        by_active, by_rows = case.sae, {**(case.sae or {}), "k": n // 8}
    return [
        settle(whole, steps=10**4, sae=by_active, seed_init=5, **train),
        settle(part, steps=10**4, sae=by_rows, seed_init=6, **train),
    ]


def after_steps(
    rows: RandomRows,
    trials: list[Trial],
    late: int,
    steps: int,
    *,
    way: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """State of the trial with the fewest steps; the others begin `late` updates earlier."""
    wanted = min(trials, key=lambda trial: trial.steps)
    first = [trial for trial in trials if trial is not wanted or not late]
    with way():
        packs = Packs(first, rows)
        if late:
            packs.advance(late)
            packs.join(wanted)
        packs.advance(steps)
    packed: Packed = next(one for one in packs.members if one.trial is wanted)
    return {name: tensor.clone() for name, tensor in packed.tensors().items()}


def differing(expected: State, found: State) -> str:
    """Names of the tensors whose bits differ."""
    return ", ".join(
        name
        for name, tensor in expected.items()
        if not torch.equal(_bytes(tensor), _bytes(found[name]))
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.cpu().reshape(-1).view(torch.uint8)
