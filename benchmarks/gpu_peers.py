"""One TopK trial as others train it, on the same rows: what our kernels are timed against."""

import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import gpu_cases
from benchmarks.gpu_cases import (
    FULL,
    TUTORIAL,
    Packs,
    RandomRows,
    Row,
    Shape,
    floor_ms,
    peak_bytes,
    released,
    settle,
    synchronise,
    timed,
)

Way = Literal["eager", "torch.compile", "SAELens-like"]


class Plain:
    """Dense products under autograd, in bfloat16 autocast, and torch's Adam.

    `SAELens-like` as SAELens 6.54 does it: the gradient's norm is clipped at 1, Adam is torch's
    default one, the learning rate has a scheduler, decoder rows are free. The other ways use the
    fused Adam, and keep decoder rows at unit norm.
    """

    def __init__(self, shape: Shape, rows: RandomRows, way: Way = "eager") -> None:
        self._rows, self._shape, self._way, self._step = rows, shape, way, 0
        device = gpu_cases.DEVICE
        generator = torch.Generator(device).manual_seed(0)
        w = torch.randn(shape.n_latents, shape.d, generator=generator, device=device)
        w = F.normalize(w, dim=1)
        self._w_enc, self._w_dec = nn.Parameter(w.clone()), nn.Parameter(w)
        self._b_enc = nn.Parameter(torch.zeros(shape.n_latents, device=device))
        self._b_dec = nn.Parameter(torch.zeros(shape.d, device=device))
        self._parameters = [self._w_enc, self._b_enc, self._w_dec, self._b_dec]
        fused = way != "SAELens-like" and device.type == "cuda"
        self._adam = torch.optim.Adam(self._parameters, lr=1e-3, fused=fused or None)
        self._schedule = torch.optim.lr_scheduler.ConstantLR(self._adam, factor=1.0)
        self._loss: Any = torch.compile(self._plain_loss) if way == "torch.compile" else None

    def _plain_loss(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            pre = F.linear(x - self._b_dec, self._w_enc, self._b_enc)
            top = pre.topk(self._shape.k, sorted=False)
            latents = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
            x_hat = latents @ self._w_dec + self._b_dec
        return (x_hat.float() - x).square().sum(dim=1).mean()

    def batch(self) -> Tensor:
        """The next rows, one batch after another."""
        size, n = self._shape.batch, self._rows.n_train
        first = self._step * size % (n - size + 1)
        self._step += 1
        return self._rows.train_rows(torch.arange(first, first + size))

    def advance(self, steps: int) -> float:
        """Make so many updates; returns their seconds."""
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            self._adam.zero_grad(set_to_none=True)
            (self._loss or self._plain_loss)(self.batch()).backward()
            if self._way == "SAELens-like":
                torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
                self._adam.step()
                self._schedule.step()
                continue
            grad, w = self._w_dec.grad, self._w_dec
            assert grad is not None
            with torch.no_grad():
                grad.sub_((grad * w).sum(dim=1, keepdim=True) * w)
            self._adam.step()
            with torch.no_grad():
                w.div_(w.norm(dim=1, keepdim=True))
        synchronise()
        return time.perf_counter() - began


class Sparsify:
    """eai-sparsify's SparseCoder with its kernels, trained as its Trainer does, with fused Adam.

    Raises:
        ImportError: where the library, or what it imports, is absent.
    """

    def __init__(self, shape: Shape, rows: RandomRows) -> None:
        _without_texts()
        from sparsify import SparseCoder, SparseCoderConfig

        device = gpu_cases.DEVICE
        config = SparseCoderConfig(num_latents=shape.n_latents, k=shape.k)
        self._sae = SparseCoder(shape.d, config, device=device, dtype=torch.float32)
        self._adam = torch.optim.Adam(
            self._sae.parameters(), lr=1e-3, fused=device.type == "cuda" or None
        )
        self._plain = Plain(shape._replace(n_latents=1), rows)  # whose batches it takes

    def advance(self, steps: int) -> float:
        """Make so many updates; returns their seconds."""
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            self._adam.zero_grad(set_to_none=True)
            self._sae(self._plain.batch()).fvu.backward()
            self._sae.remove_gradient_parallel_to_decoder_directions()
            self._adam.step()
            self._sae.set_decoder_norm_to_unit_norm()
        synchronise()
        return time.perf_counter() - began


def _without_texts() -> None:
    """Let eai-sparsify be imported where datasets is absent: it reads texts with it, we none."""
    if "datasets" in sys.modules or find_spec("datasets") is not None:
        return
    stub = ModuleType("datasets")
    stub.__spec__ = ModuleSpec("datasets", None)  # transformers and accelerate look for it
    for name in ("Dataset", "DatasetDict"):
        setattr(stub, name, object)
    sys.modules["datasets"] = stub


def peers(
    shapes: tuple[Shape, ...] = (FULL, TUTORIAL, Shape(2048, 2048, 32, 256)),
    ways: tuple[str, ...] = ("ours", "eager", "SAELens-like", "sparsify", "torch.compile"),
    steps: int = 10,
) -> Iterator[Row]:
    """One TopK trial by ourselves and by others, on the same rows."""
    for way in ways:  # torch.compile last: it takes long, and may take all the time that is left
        for shape in shapes:
            advance = None  # else the way before would be in the memory of this one
            rows = RandomRows(shape.d, 8 * shape.batch)
            start = released()
            row: Row = {"shape": str(shape), "way": way}
            try:
                advance = _trained(shape, rows, way)
            except ImportError as error:
                yield row | {"wall ms": f"absent: {error}"}
                break
            times = timed(advance, warm_up=min(5, steps), steps=steps, rounds=3)
            peak = peak_bytes() - start  # before the floor's own products
            yield row | {
                "wall ms": times.wall,
                "device ms": times.device,
                "floor ms": floor_ms(shape),
                "samples/s": 1e3 * shape.batch / times.wall,
                "peak MB": peak / 1e6,
            }


def _trained(shape: Shape, rows: RandomRows, way: str) -> Any:
    if way == "ours":
        return Packs([settle(shape, steps=10**6)], rows).advance
    if way == "sparsify":
        return Sparsify(shape, rows).advance
    return Plain(shape, rows, way).advance


SAMPLES = 200_000_000
"""Of one SAE of the tutorial."""


def tutorial(shape: Shape = TUTORIAL, steps: int = 400, members: int = 16) -> Iterator[Row]:
    """The public tutorial's shape: alone, many in one pack, and the eager loop.

    SAEs per hour are those of 200 million samples each at the measured speed; generation of the
    samples is in no way's time.
    """
    rows = RandomRows(shape.d, 64 * shape.batch)
    loop = [settle(shape, steps=10**6, lr=1e-4 * (1 + i), seed_init=i) for i in range(members)]
    alone = None
    for way, trials in (("alone", loop[:1]), (f"{members} in one pack", loop)):
        released()
        times = timed(Packs(trials, rows).advance, warm_up=10, steps=steps, rounds=3)
        speed = 1e3 * shape.batch * len(trials) / times.wall
        alone = alone or speed
        yield _speed(shape, way, times.wall, times.device, speed) | {"to one alone": speed / alone}
    for plain_way in ("SAELens-like", "eager"):
        released()
        plain = Plain(shape, rows, plain_way)
        times = timed(plain.advance, warm_up=5, steps=max(1, steps // 4), rounds=3)
        speed = 1e3 * shape.batch / times.wall
        row = _speed(shape, f"{plain_way}, one after another", times.wall, times.device, speed)
        yield row | {"to one alone": speed / alone}


def _speed(shape: Shape, way: str, wall: float, device: float, samples: float) -> Row:
    return {
        "shape": str(shape),
        "way": way,
        "wall ms per step": wall,
        "device ms per step": device,
        "samples/s": samples,
        "SAEs per hour": 3600 * samples / SAMPLES,
    }
