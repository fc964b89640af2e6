"""What `benchmarks.gpu` looks at: rows, trials and packs of them, all drawn on the device."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_sweep.config import ActivationsConfig, Source, Trial, TrialConfig, resolve
from sae_sweep.kernels.fused import pages
from sae_sweep.kernels.fused.table import DENSE, SPARSE
from sae_sweep.sae import AbstractSae, build
from sae_sweep.train import chunk, pack, pack_steps
from sae_sweep.train.checkpoint import State
from sae_sweep.train.pack import Pack, Packed, pack_key
from sae_sweep.train.solo import initial_sae

DEVICE = torch.device("cuda")

Row = dict[str, Any]
"""A line of a table, by column."""

UPDATE_BYTES = {"bf16": 52, "fp32": 48}
"""What an update moves per weight of both matrices: weight and two moments read and written in
float32, in bf16 training a bfloat16 copy written, times two matrices."""


class Shape(NamedTuple):
    """What decides how long a step takes."""

    d: int
    n_latents: int
    k: int
    batch: int

    def __str__(self) -> str:
        return f"d {self.d}, n {self.n_latents}, k {self.k}, B {self.batch}"


FULL = Shape(2048, 65_536, 32, 4096)
TUTORIAL = Shape(768, 4096, 25, 1024)
"""The public SynthSAEBench tutorial's."""
SHAPES = (FULL, Shape(768, 8192, 32, 1024), Shape(2048, 2048, 100, 256), TUTORIAL)


class RandomRows:
    """Rows with a few directions each, as activations have, so that there is something to learn."""

    group_names: tuple[str, ...] = ()
    scale = 1.0

    def __init__(self, d: int, n: int) -> None:
        generator = torch.Generator(DEVICE).manual_seed(0)
        self.d, self.n_train, self.n_validation = d, n, min(n, 4096)
        self.window_rows = n
        self.mean = torch.zeros(d)
        directions = torch.randn(4 * d, d, generator=generator, device=DEVICE)
        directions = F.normalize(directions, dim=1)
        chosen = torch.randint(4 * d, (n, 8), generator=generator, device=DEVICE)
        sizes = torch.rand(n, 8, generator=generator, device=DEVICE)
        rows = F.embedding_bag(chosen, directions, per_sample_weights=sizes, mode="sum")
        self._rows = rows * (d**0.5 / rows.norm(dim=1).mean())
        self._validation = self._rows[: self.n_validation].cpu()  # where a trial's sources have it

    def train_rows(self, indices: Tensor) -> Tensor:
        """Take rows."""
        return self._rows[indices.to(DEVICE)]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        """Take the first rows once more: nothing here rests on what they score."""
        return self._validation[start:stop]

    def validation_groups(self, start: int, stop: int) -> Tensor:
        """One group."""
        return torch.zeros(stop - start, dtype=torch.int16)


def settle(shape: Shape, *, steps: int, sae: dict[str, Any] | None = None, **train: Any) -> Trial:
    """Resolve a trial of this shape: fused TopK without auxiliary loss, or what is said."""
    kind = {"kind": "topk", "k": shape.k, "aux_coeff": 0}
    settings = {"kernels": "fused", "lr": 1e-3, "precision": "bf16", "report_every": 10**9}
    config = TrialConfig.model_validate(
        {
            "activations": ActivationsConfig(synthetic={}, d=shape.d),
            "sae": {**(sae or kind), "n_latents": shape.n_latents},
            "train": {**settings, "batch_size": shape.batch, "steps": steps, **train},
        }
    )
    return resolve(config, Source("random", shape.d, 8 * shape.batch, {}))


def drawn_on_the_device(
    trial: Trial, activations: RandomRows, device: torch.device, **options: bool
) -> AbstractSae:
    """Build what a trial starts from; a CPU would take minutes for the largest one."""
    if trial.sae.kind not in ("topk", "l1"):  # they have more than four parameters, and are small
        return initial_sae(trial, activations, device, **options)
    sae = build(trial.sae.model_copy(update={"n_latents": 1}), activations.d, 0)
    sae.config = trial.sae
    generator = torch.Generator(DEVICE).manual_seed(trial.train.seed_init)
    rows = torch.randn(trial.n_latents, activations.d, generator=generator, device=DEVICE)
    rows = F.normalize(rows, dim=1)
    sae.w_enc, sae.w_dec = nn.Parameter(0.5 * rows), nn.Parameter(rows)
    sae.b_enc = nn.Parameter(torch.zeros(trial.n_latents, device=DEVICE))
    sae.b_dec = nn.Parameter(torch.zeros(activations.d, device=DEVICE))
    return sae


class Packs:
    """A pack of trials that can be advanced and timed."""

    def __init__(self, trials: Sequence[Trial], rows: RandomRows) -> None:
        self.pack = Pack(rows, pack_key(trials[0]), DEVICE)
        self.pack.reserve(trials)
        self.members: dict[Packed, int] = {}
        self.join(*trials)

    def join(self, *trials: Trial) -> None:
        """Let trials in."""
        with mock.patch.object(pack, "initial_sae", drawn_on_the_device):
            self.members |= {self.pack.join(trial): 0 for trial in trials}

    def advance(self, steps: int) -> float:
        """Make so many updates of every member; returns their seconds."""
        synchronise()
        began = time.perf_counter()
        self.pack.update(self.members, steps)
        synchronise()
        self.members = {packed: step + steps for packed, step in self.members.items()}
        return time.perf_counter() - began

    @property
    def recorded(self) -> bool:
        """Whether no recording of a graph has failed."""
        return not self.pack.steps._unrecorded

    def alter(self, packed: Packed, **tensors: Tensor) -> None:
        """Put a member into its present state, except for these tensors."""
        packed.load(State({**packed.tensors(), **tensors}, {"step": self.members[packed]}))


class Selection(NamedTuple):
    """What the last update chose of one member, by token and latent."""

    pre: Tensor
    """Pre-activations."""
    chosen: Tensor
    """Which latents are active."""


def selection(packed: Packed) -> Selection:
    """Read what the kernels of the last update have left."""
    step = packed.pack.steps._step
    assert step is not None
    rows = pages.row_ids(packed.pack.table, packed.slot)
    pre = step._pre[:, rows]
    lowest = step._threshold[packed.slot][:, None]
    tie = (pre == lowest) & (rows <= step._last_tie[packed.slot][:, None])
    return Selection(pre, (pre > 0) & ((pre > lowest) | tie))


@contextmanager
def fetching() -> Iterator[None]:
    """Fetch rows a batch ahead, as where they do not all stay on the device."""
    with (
        mock.patch.object(pack_steps, "RESIDENT_SHARE", 0.0),
        mock.patch.object(pack_steps, "CPU_BYTES", 0),
        mock.patch.object(chunk, "FETCHED_BYTES", 0),
    ):
        yield


@contextmanager
def without_graphs() -> Iterator[None]:
    """Launch every update from the host."""
    with mock.patch.object(pack_steps, "record", lambda update, *_: update):
        yield


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def released() -> int:
    """Free what nothing refers to any more; returns the bytes that are still allocated."""
    gc.collect()  # a pack and its members refer to each other
    if DEVICE.type != "cuda":
        return 0
    synchronise()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def device_bytes() -> int:
    """Memory of the device."""
    if DEVICE.type != "cuda":
        return 2**40
    return torch.cuda.get_device_properties(DEVICE).total_memory


def peak_bytes() -> int:
    """The most that was allocated at once since `released`."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0


class Times(NamedTuple):
    """Milliseconds of one step, the median of several rounds."""

    wall: float
    """Until the device has ended."""
    device: float
    """From the device's first work to its last, pauses included."""


def timed(advance: Callable[[int], object], *, warm_up: int, steps: int, rounds: int) -> Times:
    """Time a step, after some that compile and record."""
    advance(warm_up)
    both = [_timed_once(advance, steps) for _ in range(rounds)]
    return Times(*(statistics.median(each) for each in zip(*both, strict=True)))


def _timed_once(advance: Callable[[int], object], steps: int) -> Times:
    synchronise()
    events = []
    if DEVICE.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
    began = time.perf_counter()
    advance(steps)
    if events:
        events[1].record()
    synchronise()
    wall = 1e3 * (time.perf_counter() - began) / steps
    return Times(wall, events[0].elapsed_time(events[1]) / steps if events else wall)


def seconds_of(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time of some work on the device, launched so often that no launch is waited for."""

    def often(count: int) -> None:
        for _ in range(count):
            work()  # results are not kept: each is written where the one before was

    return timed(often, warm_up=2, steps=20, rounds=repeats).device / 1e3


@cache
def bytes_a_second(numel: int = 2**28) -> float:
    """What a copy reads and writes in a second, measured in this process."""
    a = torch.randn(numel, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * 4 * numel / seconds_of(lambda: b.copy_(a))


@cache
def product_seconds(m: int, n: int, k: int, precision: str = "bf16") -> float:
    """Seconds of a product [m k] x [k n] with a float32 result, in this process."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(m, k, device=DEVICE, dtype=kind)
    w = torch.randn(n, k, device=DEVICE, dtype=kind)
    if DEVICE.type != "cuda" or precision == "fp32":
        return seconds_of(lambda: torch.mm(x, w.T))
    return seconds_of(lambda: torch.mm(x, w.T, out_dtype=torch.float32))


def floor_ms(shape: Shape, precision: str = "bf16", *, dense: bool = False) -> float:
    """No step is faster: the encoder's product, or all five, then the bytes of the update."""
    product = product_seconds(shape.batch, shape.n_latents, shape.d, precision)
    update = UPDATE_BYTES[precision] * shape.n_latents * shape.d / bytes_a_second()
    return 1e3 * (product * (5 if dense else 1) + update)


def pack_floor_ms(packs: Packs) -> float:
    """`floor_ms` of all members, as if those of one form were one.

    One product of a small member leaves most of a device idle; theirs together do not.
    """
    trial = next(iter(packs.members)).trial
    latents = {
        form: sum(one.trial.n_latents for one in packs.members if one.form == form)
        for form in (SPARSE, DENSE)
    }
    d, batch, precision = trial.source.d, trial.train.batch_size, trial.train.precision
    return sum(
        floor_ms(Shape(d, n, 1, batch), precision, dense=form == DENSE)
        for form, n in latents.items()
        if n
    )
