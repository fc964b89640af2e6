"""What `benchmarks.gpu` times: our pack, and plain training of one trial beside it."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_sweep.config import ActivationsConfig, Source, Trial, TrialConfig, resolve
from sae_sweep.train.pack import Pack, Packed, pack_key

DEVICE = torch.device("cuda")


class Shape(NamedTuple):
    """What decides how long a step takes."""

    d: int
    n_latents: int
    k: int
    batch: int


class RandomRows:
    """Rows with a few directions each, as activations have, so that training has what to learn."""

    group_names: tuple[str, ...] = ()
    scale = 1.0

    def __init__(self, d: int, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.d, self.n_train, self.n_validation = d, n, min(n, 4096)
        self.window_rows = n
        self.mean = torch.zeros(d)
        directions = F.normalize(torch.randn(4 * d, d, generator=generator), dim=1)
        chosen = torch.randint(4 * d, (n, 8), generator=generator)
        sizes = torch.rand(n, 8, generator=generator)
        rows = F.embedding_bag(chosen, directions, per_sample_weights=sizes, mode="sum")
        self._rows = rows * (d**0.5 / rows.norm(dim=1).mean())

    def train_rows(self, indices: Tensor) -> Tensor:
        """Take rows."""
        return self._rows[indices]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        """Take the first rows once more: nothing here rests on what they score."""
        return self._rows[start:stop]

    def validation_groups(self, start: int, stop: int) -> Tensor:
        """One group."""
        return torch.zeros(stop - start, dtype=torch.int16)


def settle(shape: Shape, *, steps: int, sae: dict[str, Any] | None = None, **train: Any) -> Trial:
    """Resolve a trial of this shape: fused TopK without auxiliary loss, or what is said."""
    kind = {"kind": "topk", "k": shape.k, "aux_coeff": 0}
    settings = {"kernels": "fused", "lr": 1e-3, "report_every": 10**9}
    config = TrialConfig.model_validate(
        {
            "activations": ActivationsConfig(synthetic={}, d=shape.d),
            "sae": {**(sae or kind), "n_latents": shape.n_latents},
            "train": {**settings, "batch_size": shape.batch, "steps": steps, **train},
        }
    )
    return resolve(config, Source("random", shape.d, 8 * shape.batch, {}))


class Packs:
    """A pack of trials that can be advanced and timed."""

    def __init__(self, trials: Sequence[Trial], rows: RandomRows) -> None:
        self.pack = Pack(rows, pack_key(trials[0]), DEVICE)
        self.pack.reserve(trials)
        self.members: dict[Packed, int] = {self.pack.join(trial): 0 for trial in trials}

    def advance(self, steps: int) -> float:
        """Make so many updates of every member; returns their seconds."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        self.pack.update(self.members, steps)
        torch.cuda.synchronize()
        self.members = {packed: step + steps for packed, step in self.members.items()}
        return time.perf_counter() - began


class Plain:
    """One TopK or ReLU trial as one would write it: products, autograd, torch's fused Adam."""

    def __init__(self, shape: Shape, rows: RandomRows, *, compiled: bool, l1: bool) -> None:
        self._batches = [
            rows.train_rows(torch.arange(i * shape.batch, (i + 1) * shape.batch)).to(DEVICE)
            for i in range(rows.n_train // shape.batch)
        ]
        generator = torch.Generator().manual_seed(0)
        w = F.normalize(torch.randn(shape.n_latents, shape.d, generator=generator), dim=1)
        self._w_dec = w.clone().to(DEVICE).requires_grad_()
        self._w_enc = w.to(DEVICE).requires_grad_()
        self._b_enc = torch.zeros(shape.n_latents, device=DEVICE, requires_grad=True)
        self._b_dec = torch.zeros(shape.d, device=DEVICE, requires_grad=True)
        parameters = [self._w_enc, self._b_enc, self._w_dec, self._b_dec]
        self._adam = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        self._k = None if l1 else shape.k
        self._loss = torch.compile(self._plain_loss) if compiled else self._plain_loss

    def _plain_loss(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            pre = F.linear(x - self._b_dec, self._w_enc, self._b_enc)
            if self._k is None:
                latents = pre.relu()
                penalty = latents.float().sum(dim=1).mean()
            else:
                top = pre.topk(self._k, sorted=False)
                latents = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
                penalty = x.new_zeros(())
            x_hat = latents @ self._w_dec + self._b_dec
        return (x_hat.float() - x).square().sum(dim=1).mean() + penalty

    def advance(self, steps: int) -> float:
        """Make so many updates; returns their seconds."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        for step in range(steps):
            self._adam.zero_grad(set_to_none=True)
            self._loss(self._batches[step % len(self._batches)]).backward()
            grad, w = self._w_dec.grad, self._w_dec
            assert grad is not None
            with torch.no_grad():
                grad.sub_((grad * w).sum(dim=1, keepdim=True) * w)
            self._adam.step()
            with torch.no_grad():
                w.div_(w.norm(dim=1, keepdim=True))
        torch.cuda.synchronize()
        return time.perf_counter() - began


def milliseconds(
    advance: Callable[[int], float], *, warm_up: int, steps: int, rounds: int
) -> float:
    """Time a step: the median round, after some that compile and record."""
    advance(warm_up)
    return 1e3 * sorted(advance(steps) / steps for _ in range(rounds))[rounds // 2]
