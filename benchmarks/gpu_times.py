"""How long the fused kernels take on this device, beside the floor measured in the same call."""

import concurrent.futures
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import gpu_cases
from benchmarks.gpu_cases import (
    FULL,
    SHAPES,
    TUTORIAL,
    UPDATE_BYTES,
    Packs,
    RandomRows,
    Row,
    Shape,
    bytes_a_second,
    device_bytes,
    floor_ms,
    pack_floor_ms,
    peak_bytes,
    product_seconds,
    released,
    seconds_of,
    settle,
    synchronise,
    timed,
)
from benchmarks.gpu_checks import BIT_CASES, CASES, FURTHER_BIT_CASES, Case
from sae_sweep.config import Trial
from sae_sweep.kernels.fused import encode
from sae_sweep.kernels.fused.memory import packed_memory, rows_memory
from sae_sweep.records import Outcome
from sae_sweep.train import Engine

L1 = {"kind": "l1", "l1_alpha": 1.0}
L1_SHAPE = Shape(768, 8192, 1, 1024)


def compile_kernels(shapes: tuple[Shape, ...] = SHAPES, processes: int = 12) -> Iterator[Row]:
    """Let many processes fill Triton's cache at once: later parts then compile almost nothing.

    A kernel's code depends on width, batch and precision, hardly on the number of latents.
    """
    checked = (*CASES, *BIT_CASES, *FURTHER_BIT_CASES)
    cases = {(case.shape.d, case.shape.batch, case.name): case for case in checked}
    for shape in shapes:
        cases[shape.d, shape.batch, ""] = Case("TopK", shape)
    wanted = [(case, precision) for case in cases.values() for precision in ("bf16", "fp32")]
    spawned = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=spawned) as pool:
        done = {pool.submit(compile_case, *one): one for one in wanted}
        for future in concurrent.futures.as_completed(done):
            case, precision = done[future]
            if future.exception():
                said = {"error": str(future.exception()), "verdict": "WRONG: does not compile"}
                yield {"case": case.name, "precision": precision, **said}
    yield {"cases": len(wanted), "seconds": time.perf_counter() - began}


def compile_case(case: Case, precision: str) -> None:
    """Make one update of few latents."""
    shape = case.shape._replace(n_latents=2 * case.shape.k + 126)
    settings = {"precision": precision, "reproducible": case.exact}
    sparse = case.shape.k <= case.shape.n_latents / 100 and case.sae is None
    if sparse:
        settings["latents"] = "sparse"
    trial = settle(shape, steps=100, sae=case.sae, **settings)
    Packs([trial], RandomRows(shape.d, shape.batch)).advance(1)


def ceilings(
    selections: tuple[tuple[int, int, int], ...] = ((4096, 65_536, 32), (4096, 131_072, 1024)),
) -> Iterator[Row]:
    """The device's own limits: copy, product, selection."""
    yield {"what": "copy", "size": "1 GiB", "measured": bytes_a_second() / 1e12, "unit": "TB/s"}
    for shape in (*SHAPES, Shape(8192, 8192, 1, 8192)):
        m, n, k = shape.batch, shape.n_latents, shape.d
        rate = 2 * m * n * k / product_seconds(m, n, k) / 1e12
        size = f"{m} x {n} x {k}"
        yield {"what": "bf16 product", "size": size, "measured": rate, "unit": "TFLOP/s"}
    for rows, n, k in selections:
        pre = torch.randn(rows, n, device=gpu_cases.DEVICE)
        seconds = seconds_of(lambda pre=pre, k=k: torch.topk(pre, k, sorted=False))
        size = f"{rows} x {n}, k {k}"
        yield {"what": "torch.topk", "size": size, "measured": 1e3 * seconds, "unit": "ms"}


def steps(shapes: tuple[Shape, ...] = SHAPES, count: int = 30) -> Iterator[Row]:
    """A training step of one trial, optimiser included, and the memory that it takes."""
    for precision in ("bf16", "fp32"):
        for shape in shapes:
            yield _step([settle(shape, steps=10**6, precision=precision)], shape, count)
    for members in (1, 8):
        shape = L1_SHAPE
        saes = [{"kind": "l1", "l1_alpha": 2.0**i} for i in range(members)]
        trials = [settle(shape, steps=10**5, sae=sae) for sae in saes]
        row = _step(trials, shape, count)
        yield row | {"minutes of 100,000 steps": row["wall ms"] * 1e5 / 6e4}


def _step(trials: list[Trial], shape: Shape, count: int) -> Row:
    trial, rows = trials[0], RandomRows(shape.d, 8 * shape.batch)
    start = released()
    packs = Packs(trials, rows)
    times = timed(packs.advance, warm_up=10, steps=count, rounds=5)
    peak = peak_bytes() - start
    floor = pack_floor_ms(packs)
    estimate = rows_memory(trial, device_bytes())
    estimate += sum(packed_memory(one).total for one in trials)
    return {
        "trials": f"{len(trials)} {trial.sae.kind}",
        "shape": str(shape),
        "precision": trial.train.precision,
        "wall ms": times.wall,
        "device ms": times.device,
        "floor ms": floor,
        "to floor": times.device / floor,
        "peak MB": peak / 1e6,
        "estimate MB": estimate / 1e6,
        "estimate to peak": estimate / peak if peak else None,
        "verdict": "ok" if packs.recorded else "WRONG: no graph",
    }


def kernels(
    shapes: tuple[tuple[str, Shape], ...] = (
        ("topk", FULL),
        ("l1", L1_SHAPE),
        ("topk", Shape(2048, 2048, 100, 256)),
    ),
    count: int = 20,
) -> Iterator[Row]:
    """Time of each kernel in a step, as torch's profiler saw it."""
    activity = torch.profiler.ProfilerActivity
    seen = activity.CUDA if gpu_cases.DEVICE.type == "cuda" else activity.CPU
    for kind, shape in shapes:
        released()
        rows = RandomRows(shape.d, 8 * shape.batch)
        trial = settle(shape, steps=10**6, sae=L1 if kind == "l1" else None)
        packs = Packs([trial], rows)
        packs.advance(10)
        synchronise()
        with torch.profiler.profile(activities=[seen]) as profile:
            packs.advance(count)
        update = 1e3 * UPDATE_BYTES["bf16"] * shape.n_latents * shape.d / bytes_a_second()
        product = 1e3 * product_seconds(shape.batch, shape.n_latents, shape.d)
        floors = {
            "update_kernel": update,
            "multiply_pages": product,
            "multiply_by_bulk_copies": product,
        }
        averages = profile.key_averages()
        total = sum(_device_us(one) for one in averages) / count / 1e3
        listed = sorted(averages, key=_device_us, reverse=True)[:24]
        for one in listed:
            yield {
                "trial": f"{kind}, {shape}",
                "kernel": one.key[:60],
                "launches per step": one.count / count,
                "us per step": _device_us(one) / count,
                "floor us": 1e3 * floors[one.key] if one.key in floors else None,
            }
        yield {"trial": f"{kind}, {shape}", "busy ms per step": total}


def _device_us(average: Any) -> float:
    """Of kernels and copies; what only launched them has the same time once more."""
    if gpu_cases.DEVICE.type == "cuda" and average.device_type != torch.autograd.DeviceType.CUDA:
        return 0.0
    return float(average.self_device_time_total)


GRID = tuple((k, n) for n in (512, 1024, 2048) for k in (5, 10, 20, 100))


def grid(
    cells: tuple[tuple[int, int], ...] = GRID,
    d: int = 2048,
    n_rows: int = 5978,
    batch: int = 256,
    passes: int = 25,
) -> Iterator[Row]:
    """The published 12 cells, 25 passes over 5,978 rows, through the engine.

    Together; and each joining 37 updates after the one before, as a refilled slot's members are
    apart. Weights are drawn as in a sweep; evaluation and files are in the time.
    """
    n_steps = passes * n_rows // batch
    rows = RandomRows(d, n_rows)
    trials = [settle(Shape(d, n, k, batch), steps=n_steps, report_every=200) for k, n in cells]
    packs = Packs(trials, rows)
    packs.advance(3)
    floor = pack_floor_ms(packs)
    times = timed(packs.advance, warm_up=5, steps=max(1, (n_steps - 8) // 3), rounds=3)
    del packs
    yield {
        "way": "one pack, training alone",
        "trials": len(cells),
        "steps each": n_steps,
        "seconds": times.wall * n_steps / 1e3,
        "floor s": floor * n_steps / 1e3,
        "ms per step": times.wall,
    }
    for way, apart in (("engine, together", 0), ("engine, 37 steps apart", 37)):
        released()
        began = time.perf_counter()
        outcomes = _through_the_engine(trials, rows, apart)
        seconds = time.perf_counter() - began
        trained = sum(outcome.seconds for outcome in outcomes)
        statuses = {outcome.status for outcome in outcomes}
        yield {
            "way": way,
            "trials": len(outcomes),
            "steps each": n_steps,
            "seconds": seconds,
            "seconds in updates": trained,
            "floor s": floor * n_steps / 1e3,
            "verdict": "ok" if statuses == {"done"} else f"WRONG: {', '.join(sorted(statuses))}",
        }


def _through_the_engine(trials: list[Trial], rows: RandomRows, apart: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(rows, Path(folder), gpu_cases.DEVICE, threads=torch.get_num_threads())
        waiting = list(trials)
        while waiting or engine.uids:
            for trial in waiting[: 1 if apart else len(waiting)]:
                engine.add(trial)
                waiting.remove(trial)
            events = engine.advance(apart if waiting else 10**9)
            outcomes += [event for event in events if isinstance(event, Outcome)]
    synchronise()
    return outcomes


def forms(
    shapes: tuple[tuple[int, int, int], ...] = ((2048, 16_384, 1024), (768, 8192, 1024)),
    densities: tuple[float, ...] = (1 / 400, 1 / 200, 1 / 100, 1 / 64, 1 / 32),
    count: int = 20,
) -> Iterator[Row]:
    """A TopK step by active latents beside one by whole rows: where do they cross?"""
    for d, n, b in shapes:
        for density in densities:
            shape = Shape(d, n, max(1, int(n * density)), b)
            rows = RandomRows(d, 4 * b)
            ms = {}
            for latents in ("sparse", "dense"):
                released()
                packs = Packs([settle(shape, steps=10**6, latents=latents)], rows)
                ms[latents] = timed(packs.advance, warm_up=5, steps=count, rounds=3).device
                del packs
            yield {
                "shape": str(shape),
                "share active": shape.k / n,
                "sparse ms": ms["sparse"],
                "dense ms": ms["dense"],
                "sparse to dense": ms["sparse"] / ms["dense"],
            }


def fusion(
    dictionaries: tuple[int, ...] = (512, 2048, 8192),
    counts: tuple[int, ...] = (1, 4, 16, 64),
    d: int = 2048,
    batch: int = 256,
) -> Iterator[Row]:
    """What company saves: a step of M trials together beside M steps of one."""
    for n_latents in dictionaries:
        shape = Shape(d, n_latents, max(1, n_latents // 128), batch)
        rows = RandomRows(shape.d, 16 * shape.batch)
        alone = None
        for members in counts:
            released()
            trials = [settle(shape, steps=10**6, seed_init=seed) for seed in range(members)]
            packs = Packs(trials, rows)
            times = timed(packs.advance, warm_up=10, steps=50, rounds=3)
            floor = pack_floor_ms(packs)
            del packs
            alone = alone or times.wall
            yield {
                "shape": str(shape),
                "trials": members,
                "wall ms": times.wall,
                "device ms": times.device,
                "floor ms": floor,
                "to one alone": alone * members / times.wall,
            }


def products(shapes: tuple[Shape, ...] = (FULL, TUTORIAL), count: int = 30) -> Iterator[Row]:
    """The encoder's product three ways: with bulk copies, without, and by the vendor's library.

    The last is train.reproducible=false.
    """
    for shape in shapes:
        rows = RandomRows(shape.d, 8 * shape.batch)
        for way in ("ours", "ours, without bulk copies", "the library's"):
            released()
            trial = settle(shape, steps=10**6, reproducible=way != "the library's")
            with without_bulk_copies() if "without" in way else nullcontext():
                packs = Packs([trial], rows)
                times = timed(packs.advance, warm_up=10, steps=count, rounds=3)
            del packs
            yield {
                "shape": str(shape),
                "product": way,
                "wall ms": times.wall,
                "device ms": times.device,
                "floor ms": floor_ms(shape),
            }


def without_bulk_copies() -> AbstractContextManager[Any]:
    """Encode as on a device older than Hopper."""
    return mock.patch.object(encode, "programs_with_bulk_copies", return_value=0)
