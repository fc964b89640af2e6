"""The fused kernels on a GPU: are they right at full size, and how far from the floor are they?

    python -m benchmarks.gpu --results benchmarks/results

Needs a GPU, torch with its Triton, pydantic and this repository; neither Ray nor the peers. Prints
tables and writes them, with device, versions and date, to gpu-<device>-<date>.md. Ends before
`--seconds` are over: a part that would not fit is left out and named.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
import triton
from torch import Tensor

from benchmarks.gpu_cases import (
    DEVICE,
    Packs,
    Plain,
    RandomRows,
    Shape,
    milliseconds,
    settle,
)
from sae_sweep.config import Trial
from sae_sweep.train.solo import Solo
from sae_sweep.tune.plan import memory_bytes

Table = list[list[str]]

FULL = Shape(2048, 65_536, 32, 4096)
SHAPES = (
    FULL,
    Shape(768, 8192, 32, 1024),
    Shape(2048, 2048, 100, 256),
    Shape(2048, 16_384, 64, 1024),
)
UPDATE_BYTES = 52
"""That an update moves for each latent and dimension: three tensors of two matrices read and
written in float32, and two bfloat16 copies written."""


def median_seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Time work on the device, after two times that warm up."""
    times = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


class Ceilings:
    """What the device can do, measured in this run."""

    def __init__(self) -> None:
        a = torch.randn(2**28, device=DEVICE)
        b = torch.empty_like(a)
        self.bytes_a_second = 2 * 4 * a.numel() / median_seconds(lambda: b.copy_(a))

    def product(self, m: int, n: int, k: int) -> float:
        """Seconds of a bfloat16 product [m k] x [k n] with a float32 result."""
        x = torch.randn(m, k, device=DEVICE, dtype=torch.bfloat16)
        w = torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
        return median_seconds(lambda: torch.mm(x, w.T, out_dtype=torch.float32))

    def floor_ms(self, shape: Shape) -> float:
        """No step is faster: the encoder's product, then the bytes of the update."""
        encode = self.product(shape.batch, shape.n_latents, shape.d)
        update = UPDATE_BYTES * shape.n_latents * shape.d / self.bytes_a_second
        return 1e3 * (encode + update)


def ceilings(found: Ceilings) -> Iterator[list[str]]:
    """The device's own limits: copy, product, selection."""
    yield ["what", "size", "measured"]
    yield ["copy", "1 GiB", f"{found.bytes_a_second / 1e12:.2f} TB/s read and written"]
    for shape in SHAPES:
        m, n, k = shape.batch, shape.n_latents, shape.d
        rate = 2 * m * n * k / found.product(m, n, k) / 1e12
        yield ["bfloat16 product", f"{m} x {n} x {k}", f"{rate:.0f} TFLOP/s"]
    for rows, n, k in ((4096, 65_536, 32), (4096, 65_536, 128), (4096, 131_072, 1024)):
        pre = torch.randn(rows, n, device=DEVICE)
        seconds = median_seconds(lambda pre=pre, k=k: torch.topk(pre, k, sorted=False))
        yield ["torch.topk", f"{rows} x {n}, k {k}", f"{1e3 * seconds:.2f} ms"]


def difference(found: Tensor, expected: Tensor) -> float:
    """Distance over norm."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def correctness(trial: Trial, shape: Shape, limit: float) -> Iterator[list[str]]:
    """Gradients after one update (Adam's first moments hold them) beside the reference's."""
    rows = RandomRows(shape.d, 2 * shape.batch)
    packs = Packs([trial], rows)
    packs.advance(1)
    (packed,) = packs.members
    found = packed.tensors()
    plain = settle(shape, steps=trial.steps, sae=_kind(trial), kernels="auto", precision="fp32")
    solo = Solo(plain, rows, DEVICE)
    solo.update(1)
    expected = solo.tensors()
    for name in ("first.w_enc", "first.b_enc", "first.w_dec", "first.b_dec"):
        away = difference(found[name], expected[name])
        verdict = "ok" if away <= limit else "WRONG"
        yield [trial.train.precision, name, f"{away:.1e}", f"{limit:.0e}", verdict]


def _kind(trial: Trial) -> dict[str, object]:
    return trial.sae.model_dump(exclude={"n_latents", "expansion_factor"})


def all_correct() -> Iterator[list[str]]:
    """Every precision, sparse, dense, l1 and with AuxK."""
    yield ["precision", "tensor", "relative difference", "limit", "verdict"]
    sparse, dense = Shape(2048, 16_384, 32, 1024), Shape(512, 2048, 100, 512)
    l1 = {"kind": "l1", "l1_alpha": 1.0}
    for precision, limit in (("fp32", 1e-5), ("bf16", 1e-2)):
        for shape, sae in ((FULL, None), (sparse, None), (dense, None), (dense, l1)):
            trial = settle(shape, steps=1000, sae=sae, precision=precision)
            yield [f"{trial.sae.kind} {tuple(shape)}", "", "", "", ""]
            yield from correctness(trial, shape, limit)


def steps(found: Ceilings) -> Iterator[list[str]]:
    """A training step of one trial, optimiser included."""
    yield [
        *("d, n_latents, k, batch", "floor ms", "fused ms", "fused fp32 ms", "eager ms"),
        *("torch.compile ms", "fused to best other", "share of floor"),
    ]
    for shape in SHAPES:
        rows = RandomRows(shape.d, 8 * shape.batch)
        times = []
        for precision in ("bf16", "fp32"):
            packs = Packs([settle(shape, steps=10**6, precision=precision)], rows)
            times.append(milliseconds(packs.advance, warm_up=10, steps=30, rounds=5))
            del packs
        for compiled in (False, True):
            plain = Plain(shape, rows, compiled=compiled, l1=False)
            times.append(milliseconds(plain.advance, warm_up=5, steps=10, rounds=3))
            del plain
        floor, ours = found.floor_ms(shape), times[0]
        yield [
            *(", ".join(map(str, shape)), f"{floor:.3f}", *(f"{one:.3f}" for one in times)),
            *(f"{min(times[2:]) / ours:.2f}", f"{floor / ours:.0%}"),
        ]


def grid() -> Iterator[list[str]]:
    """The published 12 cells, 25 passes over 5,978 rows at d 2048, all in one pack."""
    yield ["trials", "steps each", "seconds of training", "target"]
    rows = RandomRows(2048, 5978)
    n_steps = 25 * 5978 // 256
    cells = [(k, n) for n in (512, 1024, 2048) for k in (5, 10, 20, 100)]
    trials = [settle(Shape(2048, n, k, 256), steps=n_steps) for k, n in cells]
    Packs(trials, rows).advance(3)  # compiles
    packs = Packs(trials, rows)
    yield ["12", str(n_steps), f"{packs.advance(n_steps):.2f}", "3"]


def l1() -> Iterator[list[str]]:
    """100,000 steps of L1 at d 768, n 8192, B 1024, from the time of some of them."""
    yield ["trials", "measured steps", "ms a step", "seconds of 100,000", "target"]
    shape, timed = Shape(768, 8192, 1, 1024), 500
    rows = RandomRows(shape.d, 16 * shape.batch)
    for members, target in ((1, 60), (8, 150)):
        saes = [{"kind": "l1", "l1_alpha": 2.0**i} for i in range(members)]
        packs = Packs([settle(shape, steps=10**5, sae=sae) for sae in saes], rows)
        packs.advance(300)
        ms = 1e3 * packs.advance(timed) / timed
        yield [str(members), str(timed), f"{ms:.3f}", f"{100 * ms:.0f}", str(target)]


def fusion() -> Iterator[list[str]]:
    """What company saves: a step of M trials together beside M steps of one."""
    yield ["n_latents", "trials", "ms a step of all", "ms a trial's step", "to one alone"]
    for n_latents in (512, 2048, 8192):
        shape = Shape(2048, n_latents, max(1, n_latents // 128), 256)
        rows = RandomRows(shape.d, 16 * shape.batch)
        alone = None
        for members in (1, 4, 16, 64):
            trials = [settle(shape, steps=10**6, seed_init=seed) for seed in range(members)]
            packs = Packs(trials, rows)
            ms = milliseconds(packs.advance, warm_up=10, steps=50, rounds=3)
            alone = alone or ms
            yield [
                *(str(n_latents), str(members), f"{ms:.3f}", f"{ms / members:.3f}"),
                f"{alone * members / ms:.2f}",
            ]


def memory() -> Iterator[list[str]]:
    """The planner's estimate of a trial beside what the allocator gave."""
    yield ["d, n_latents, k, batch", "estimate MB", "peak MB", "off by"]
    for shape in SHAPES:
        rows = RandomRows(shape.d, 8 * shape.batch)
        peaks = []
        for members in (1, 2):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            packs = Packs([settle(shape, steps=10**6, seed_init=s) for s in range(members)], rows)
            packs.advance(5)
            peaks.append(torch.cuda.max_memory_allocated())
            del packs
        estimate, peak = memory_bytes(settle(shape, steps=10**6)), peaks[1] - peaks[0]
        yield [
            *(", ".join(map(str, shape)), f"{estimate / 1e6:.0f}", f"{peak / 1e6:.0f}"),
            f"{estimate / peak - 1:+.0%}",
        ]


def rendered(title: str, rows: Iterator[list[str]]) -> Iterator[str]:
    """A section of Markdown, line by line as it comes."""
    yield f"\n## {title}\n"
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"| {' | '.join('---' for _ in row)} |"


def main() -> int:
    """Run the parts until the time is up; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=480, help="ends before; default 480")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU and none is visible here", file=sys.stderr)
        return 2
    began, name = time.perf_counter(), torch.cuda.get_device_name()
    today = datetime.now(UTC).date().isoformat()
    found = Ceilings()
    lines = [f"# {name}, {today}: torch {torch.__version__}, triton {triton.__version__}"]
    parts = [
        ("Ceilings", lambda: ceilings(found), 20),
        ("Correctness", all_correct, 60),
        ("A step", lambda: steps(found), 120),
        ("The published grid", grid, 30),
        ("L1", l1, 30),
        ("Fusion", fusion, 90),
        ("Memory", memory, 30),
    ]
    for title, part, expected in parts:
        if time.perf_counter() - began + expected > arguments.seconds:
            lines.append(f"\n{title}: left out, {arguments.seconds:.0f} s would not have sufficed")
            print(lines[-1])
            continue
        for line in rendered(title, part()):
            print(line, flush=True)
            lines.append(line)
    path = arguments.results / f"gpu-{name.replace(' ', '-')}-{today}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\n{path}")
    return int(any("WRONG" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
