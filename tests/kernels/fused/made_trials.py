"""Trials for tests of the fused steps: put into a table, and stepped by autograd in float64."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.by_latent import ByLatent
from sae_sweep.kernels.fused.table import (
    DENSE,
    FREE,
    SPARSE,
    Settings,
    Table,
    empty_table,
)

PAGE = 16
ROW_PARTS = ("w_enc", "b_enc", "w_dec")


@dataclass(frozen=True)
class Trial:
    """Settings and state of one member before a step; k = 0 is l1."""

    n: int
    k: int
    pages: tuple[int, ...]
    """Where it lies in the table."""
    form: int = SPARSE
    unit: bool = True
    l1_alpha: float = 0.0
    lr: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.99
    aux_coeff: float = 0.0
    dead_window: int = 100
    usage_coeff: float = 0.0
    usage_target: float = 0.0
    often_coeff: float = 0.0
    often_limit: float = 0.5
    step: int = 3
    seed: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def with_state(self, d: int, b: int) -> "Trial":
        """Draw parameters, moments and a batch."""
        make = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make)

        shapes = {"w_enc": (self.n, d), "b_enc": (self.n,), "w_dec": (self.n, d), "b_dec": (d,)}
        state = {name: normal(*shape) for name, shape in shapes.items()}
        if self.unit:
            state["w_dec"] /= state["w_dec"].norm(dim=1, keepdim=True)
        for name, shape in shapes.items():
            state[f"first_{name}"] = normal(*shape) * 0.1
            state[f"second_{name}"] = normal(*shape).square() * 0.1 + 0.01
        state["x"] = normal(b, d)
        state["silent"] = torch.where(torch.rand(self.n, generator=make) < 0.4, 200, 5)
        return replace(self, state=state)

    def altered(self, **tensors: Tensor) -> "Trial":
        return replace(self, state={**self.state, **tensors})


def rows_of(trial: Trial, page: int = PAGE) -> Tensor:
    """Rows of the table that are the trial's latents."""
    return torch.cat([torch.arange(page) + p * page for p in trial.pages])[: trial.n]


def placed(
    trials: list[Trial],
    pages: int,
    slots: list[int] | None = None,
    operand: torch.dtype = torch.float32,
) -> Table:
    """Put trials into a table in which everything else is NaN."""
    d = trials[0].state["x"].shape[1]
    slots = list(range(len(trials))) if slots is None else slots
    table = empty_table(pages, max(slots) + 1, d, page=PAGE, device="cpu", operand=operand)
    for rows in (table.weights, table.first, table.second, table.biases):
        for tensor in rows:
            tensor.fill_(torch.nan)
    for slot, trial in zip(slots, trials, strict=True):
        for number, page in enumerate(trial.pages):
            table.page_member[page] = slot
            table.page_latents[page] = min(PAGE, trial.n - number * PAGE)
            table.member_pages[slot, number] = page
        for name, tensor in entries(table, trial, slot).items():
            tensor[:] = trial.state[name]
        for name, (rows, at) in row_entries(table, trial).items():
            rows[at] = trial.state[name]
        table.silent_tokens[rows_of(trial)] = trial.state["silent"]
    assert (table.member_pages == FREE).any()
    return table


def row_entries(table: Table, trial: Trial) -> dict[str, tuple[Tensor, Tensor]]:
    kinds = {"": table.weights, "first_": table.first, "second_": table.second}
    return {
        f"{kind}{name}": (getattr(rows, name), rows_of(trial))
        for kind, rows in kinds.items()
        for name in ROW_PARTS
    }


def entries(table: Table, trial: Trial, slot: int) -> dict[str, Tensor]:
    return {
        "b_dec": table.biases.b_dec[slot],
        "first_b_dec": table.biases.first[slot],
        "second_b_dec": table.biases.second[slot],
    }


def taken(table: Table, trial: Trial, slot: int) -> dict[str, Tensor]:
    """Copy parameters and moments out of the table."""
    rows = {name: rows[at] for name, (rows, at) in row_entries(table, trial).items()}
    return rows | {name: t.clone() for name, t in entries(table, trial, slot).items()}


def settings_of(trials: list[Trial], slots: list[int] | None = None) -> Settings:
    """Tell a step of each trial; slots without one are idle and full of NaN."""
    slots = list(range(len(trials))) if slots is None else slots
    members = max(slots) + 1
    made = {}
    for name, hint in Settings.__annotations__.items():
        kind = {"Int32": torch.int32, "Int64": torch.int64}.get(hint.__name__[:5], torch.float32)
        made[name] = torch.zeros(members, dtype=kind)
        if kind == torch.float32:
            made[name].fill_(torch.nan)
    for slot, trial in zip(slots, trials, strict=True):
        values = {
            "form": trial.form,
            "k": trial.k,
            "unit_rows": int(trial.unit),
            "step_size": trial.lr / (1 - trial.beta1**trial.step),
            "correction": (1 - trial.beta2**trial.step) ** 0.5,
            "beta1": trial.beta1,
            "beta2": trial.beta2,
            "complement1": 1 - trial.beta1,
            "complement2": 1 - trial.beta2,
            "l1_weight": trial.l1_alpha / len(trial.state["x"]),
            "aux_coeff": trial.aux_coeff,
            "dead_window": trial.dead_window,
            "usage_coeff": trial.usage_coeff,
            "usage_target": trial.usage_target,
            "often_coeff": trial.often_coeff,
            "often_limit": trial.often_limit,
        }
        for name, value in values.items():
            made[name][slot] = value
    return Settings(**made)


def stepped(trial: Trial) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take the trial's step by autograd in float64: its state, and its losses by name."""
    state = {k: t.double() if t.is_floating_point() else t for k, t in trial.state.items()}
    names = (*ROW_PARTS, "b_dec")
    w_enc, b_enc, w_dec, b_dec = (state[name].requires_grad_() for name in names)
    x, dead = state["x"], state["silent"] >= trial.dead_window
    pre = reference.pre_activations(x, w_enc, b_enc, b_dec)
    if trial.k:
        latents = reference.top_k(pre, trial.k)
        f = torch.zeros_like(pre).scatter(1, latents.indices, latents.values)
    else:
        f = pre.relu()
    x_hat = reference.dense_decode(f, w_dec, b_dec)
    squared = (x_hat - x).square().sum(dim=1)
    aux = trial.aux_coeff * reference.aux_k_loss(x - x_hat, pre, dead, w_dec)
    if trial.usage_coeff:
        aux = aux + trial.usage_coeff * reference.usage_loss(pre, trial.k, trial.usage_target)
    weights = None if trial.unit else w_dec
    often = reference.always_on_penalty(f, trial.often_limit, weights)
    aux = aux + trial.often_coeff * often
    l1_weight = trial.l1_alpha * reference.l1_penalty(f, weights)
    (reference.reconstruction_loss(x, x_hat) + l1_weight + aux).backward()
    if trial.unit:
        reference.remove_parallel(w_dec.grad, w_dec)
    for name in names:
        adam = reference.Adam(trial.lr, trial.beta1, trial.beta2)
        moments = reference.Moments(state[f"first_{name}"], state[f"second_{name}"])
        reference.adam_step(state[name], state[name].grad, moments, trial.step, adam)
    if trial.unit:
        reference.normalise_rows(w_dec)
    kept = {k: state[k].detach() for k in state if k not in ("x", "silent")}
    out = {"squared_error": squared, "aux": aux, "f": f, "pre": pre, "x_hat": x_hat}
    out["penalty"] = l1_weight
    return kept, {name: tensor.detach() for name, tensor in out.items()}


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the whole tensor's norm."""
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= 1e-5 * expected.norm()


def assert_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert_near(tensor, expected[name])


class Batch:
    """What selection and decoding leave for the gradients, by the reference in float32."""

    def __init__(self, trials: list[Trial], table: Table, slots: list[int] | None = None) -> None:
        slots = list(range(len(trials))) if slots is None else slots
        b, d = trials[0].state["x"].shape
        r = len(table.silent_tokens)
        self.centred = torch.full((max(slots) + 1, b, d), torch.nan)
        self.g, self.squared_error = self.centred.clone(), self.centred[..., 0].clone()
        self.pre = torch.full((b, r), torch.nan)
        self.threshold = self.squared_error.clone()
        self.last_tie = torch.full_like(self.threshold, -7, dtype=torch.int32)
        pairs = []
        for slot, trial in zip(slots, trials, strict=True):
            s, rows = trial.state, rows_of(trial)
            self.centred[slot] = s["x"] - s["b_dec"]
            pre = reference.pre_activations(s["x"], s["w_enc"], s["b_enc"], s["b_dec"])
            for page in trial.pages:
                self.pre[:, page * PAGE : (page + 1) * PAGE] = -torch.inf
            self.pre[:, rows] = pre
            if trial.k:
                kept = reference.top_k(pre, trial.k)
                f = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
                lowest = kept.values.amin(dim=1)
                last = torch.where(kept.values == lowest[:, None], rows[kept.indices], -1).amax(1)
            else:
                f, lowest, last = pre.relu(), torch.zeros(b), torch.full((b,), -1)
            self.threshold[slot], self.last_tie[slot] = lowest, last.int()
            if trial.form == DENSE:
                continue
            self.g[slot] = (2 / b) * (f @ s["w_dec"] - self.centred[slot])
            self.squared_error[slot] = (f @ s["w_dec"] - self.centred[slot]).square().sum(dim=1)
            token, latent = f.nonzero().unbind(1)
            tokens = (token + slot * b).tolist()
            pairs += zip(rows[latent].tolist(), tokens, f[token, latent].tolist(), strict=True)
        pairs.sort()
        padding = 3  # as where a token has fewer than k positive pre-activations
        ids = torch.tensor([pair[0] for pair in pairs], dtype=torch.int64)
        self.by_latent = ByLatent(
            torch.tensor([pair[1] for pair in pairs] + [0] * padding, dtype=torch.int32),
            torch.tensor([pair[2] for pair in pairs] + [0.0] * padding),
            torch.searchsorted(ids, torch.arange(r + 1)).int(),
            torch.cat([ids.int(), torch.full((padding,), r, dtype=torch.int32)]),
        )
