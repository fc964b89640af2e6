"""The GPU benchmark's own code, in Triton's interpreter: that it would tell right from wrong."""

import concurrent.futures
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_cases, gpu_checks, gpu_peers, gpu_times
from benchmarks.gpu import Report, Section, supervise, work
from benchmarks.gpu_cases import Packs, RandomRows, Row, Shape, settle
from benchmarks.gpu_checks import Case, bits, checked
from sae_sweep.config import Trial
from sae_sweep.kernels.fused import encode, table

SPARSE, DENSE = Shape(8, 24, 2, 4), Shape(8, 16, 5, 4)
AUX = {"kind": "topk", "k": 2, "aux_coeff": 1 / 32}
L1 = {"kind": "l1", "l1_alpha": 1.0}
CASES = [
    Case("sparse", SPARSE),
    Case("dense", DENSE),
    Case("AuxK", SPARSE, AUX),
    Case("L1 dense", SPARSE, L1),
    Case("L1 sparse", SPARSE, L1, sparse_l1=True),
    Case("library", SPARSE, exact=False),
]

# the interpreter is NumPy, which warns of what a mask then leaves out
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_cases, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu_cases.pack, "PAGE", 16)  # the interpreter is slow
    monkeypatch.setattr(gpu_cases.pack, "sparse_up_to", lambda *_: 0.15)
    # what the device can do is no question here
    monkeypatch.setattr(gpu_cases, "bytes_a_second", lambda: 1e9)
    monkeypatch.setattr(gpu_times, "bytes_a_second", lambda: 1e9)
    settled = gpu_cases.settle

    def exactly(shape: Shape, **settings: object):  # the interpreter gets bfloat16 wrong
        return settled(shape, **{**settings, "precision": "fp32"})

    for module in (gpu_checks, gpu_times, gpu_peers):
        monkeypatch.setattr(module, "settle", exactly)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in CASES[1:3] else pytest.mark.slow) for case in CASES],
    ids=lambda case: case.name,
)
def test_it_finds_our_updates_right(case: Case) -> None:
    launched, replayed = checked(case, "fp32")
    assert (launched["update"], replayed["update"]) == ("launched", "replayed")
    for row in (launched, replayed):
        assert row["verdict"] == "ok", row
        assert row["recall"] >= 0.99
        assert all(0 < row[f"grad {name}"] < 1e-5 for name in gpu_checks.NAMES)


def test_states_are_compared_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of checkpoints are on the host, far from a GPU's rows; no device is as far as meta."""
    saved = gpu_checks.Packed.tensors
    monkeypatch.setattr(
        gpu_checks.Packed,
        "tensors",
        lambda packed: {name: tensor.to("meta") for name, tensor in saved(packed).items()},
    )
    assert next(checked(CASES[1], "fp32"))["verdict"] == "ok"


def test_a_graph_that_cannot_be_recorded_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu_cases.pack_steps, "record", broken)
    launched, replayed = checked(CASES[1], "fp32")
    assert (launched["verdict"], replayed["verdict"]) == ("ok", "WRONG: no graph")


def test_sparsify_is_there_where_datasets_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peers, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    for _ in range(2):  # of a second shape, too
        gpu_peers._without_texts()
        assert importlib.util.find_spec("datasets") is not None
        assert sys.modules["datasets"].DatasetDict is object


def test_the_aux_loss_is_in_what_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "_aux_k", lambda residual, pres, dead, w: residual.sum() * 0)
    launched = next(checked(CASES[2], "fp32"))
    assert launched["verdict"].startswith("WRONG: grad w_enc")


def test_it_finds_a_wrong_update_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(packs: Packs, steps: int) -> None:
        packs.pack.update(packs.members, steps + 1)
        packs.members = {packed: step + steps for packed, step in packs.members.items()}

    monkeypatch.setattr(Packs, "advance", late)
    launched = next(checked(CASES[1], "fp32"))
    assert "grad w_enc" in launched["verdict"]
    assert "second moments" in launched["verdict"]


def test_it_finds_a_wrong_selection_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    read = gpu_checks.selection

    def without_the_first(packed: object) -> gpu_cases.Selection:
        found = read(packed)
        found.chosen[:, found.chosen.any(dim=0).nonzero()[0, 0]] = False
        return found

    monkeypatch.setattr(gpu_checks, "selection", without_the_first)
    launched = next(checked(CASES[1], "fp32"))
    assert "selection" in launched["verdict"]


FURTHER = {"kind": "jumprelu", "target_l0": 2}


@pytest.mark.parametrize("case", [Case("TopK", SPARSE), Case("JumpReLU", SPARSE, FURTHER)])
def test_it_finds_equal_bits_equal(case: Case) -> None:
    row = next(bits((case,), steps=5))
    assert row["verdict"] == "ok"
    for way in ("again", "without graphs", "rows fetched", "in company", "joined late"):
        assert row[way] == "equal"


def test_rows_that_are_fetched_come_one_batch_after_another() -> None:
    trial = settle(SPARSE, steps=5, precision="fp32")
    with gpu_cases.fetching():
        packs = Packs([trial], RandomRows(SPARSE.d, 32))
        rows = packs.pack.steps._rows
        assert not rows.resident
        assert rows.most(1) == 1


def test_it_finds_other_bits_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([1.0, 1.0, 1.0, 1.0, 1.0 + 1e-7, 1.0])

    def off(*arguments: object, **named: object) -> dict[str, torch.Tensor]:
        return {"w_enc": torch.ones(3), "b_enc": torch.tensor(next(found))}

    monkeypatch.setattr(gpu_checks, "after_steps", off)
    row = next(bits((Case("TopK", SPARSE),), steps=2))
    assert row["verdict"] == "WRONG"
    assert (row["again"], row["in company"]) == ("equal", "b_enc")


def test_company_is_of_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one form alone, a kernel compiled for both would never be compared with one for one."""
    forms = []

    def note(rows: RandomRows, trials: list[Trial], *_: object, **__: object) -> dict[str, object]:
        del rows
        forms.append({gpu_cases.pack._first_form(trial)[0] for trial in trials})
        return {}

    monkeypatch.setattr(gpu_checks, "after_steps", note)
    for shape in (SPARSE, DENSE):
        forms.clear()
        next(bits((Case("TopK", shape),)))
        assert min(map(len, forms)) == 1
        assert forms[-2:] == 2 * [{table.SPARSE, table.DENSE}]


def test_company_of_the_cases_of_a_device_shares_a_pack_and_is_of_both_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_cases.pack, "sparse_up_to", table.sparse_up_to)
    for case in (*gpu_checks.BIT_CASES, *gpu_checks.FURTHER_BIT_CASES):
        trial = settle(case.shape, steps=9, sae=case.sae, precision="fp32")
        others = gpu_checks.company(case, trial, {"precision": "fp32"})
        assert {gpu_cases.pack._first_form(one)[0] for one in others} == {table.SPARSE, table.DENSE}
        assert len({gpu_cases.pack.pack_key(one) for one in (trial, *others)}) == 1


def test_a_block_of_bulk_copies_reads_on_in_the_neighbour() -> None:
    tokens = gpu_checks.BIT_CASES[0].shape.batch
    assert encode.tile_for(torch.bfloat16, tokens, torch.device("cpu")) is encode.BFLOAT16
    assert tokens % encode.BFLOAT16.tokens


def test_the_floor_of_a_pack_is_that_of_its_members_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    products = []

    def product(m: int, n: int, k: int, precision: str) -> float:
        products.append((m, n, k, precision))
        return 1.0

    monkeypatch.setattr(gpu_cases, "product_seconds", product)
    trials = [settle(shape, steps=9, precision="fp32") for shape in (SPARSE, DENSE, SPARSE)]
    floor = gpu_cases.pack_floor_ms(Packs(trials, RandomRows(8, 16)))
    assert products == [(4, 2 * 24, 8, "fp32"), (4, 16, 8, "fp32")]
    assert floor == pytest.approx(1e3 * (1 + 5 + 48 * 64 * 8 / 1e9))


def test_packs_advance_all_their_members() -> None:
    trials = [settle(SPARSE, steps=10, precision="fp32", seed_init=seed) for seed in range(2)]
    packs = Packs(trials, RandomRows(SPARSE.d, 16))
    packs.advance(1)
    assert list(packs.members.values()) == [1, 1]


TABLES = {
    "compiling": lambda: gpu_times.compile_kernels((SPARSE,), 1),
    "ceilings": lambda: gpu_times.ceilings(((4, 24, 2),)),
    "steps": lambda: gpu_times.steps((SPARSE,), 1),
    "kernels": lambda: gpu_times.kernels((("topk", SPARSE), ("l1", DENSE)), 1),
    "grid": lambda: gpu_times.grid(((2, 24), (5, 16)), 8, 12, 4, passes=1),
    "forms": lambda: gpu_times.forms(((8, 24, 4),), (1 / 100,), 1),
    "fusion": lambda: gpu_times.fusion((24,), (1, 2), 8, 4),
    "products": lambda: gpu_times.products((SPARSE,), 1),
    "tutorial": lambda: gpu_peers.tutorial(SPARSE, 1, 2),
    "peers": lambda: gpu_peers.peers(
        (SPARSE,), ("ours", "eager", "SAELens-like", "sparsify"), steps=1
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_made(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_times, "SHAPES", (SPARSE,))
    monkeypatch.setattr(gpu_times, "timed", few_rounds)
    monkeypatch.setattr(gpu_peers, "timed", few_rounds)
    monkeypatch.setattr(gpu_times, "seconds_of", lambda work, **_: 1.0)
    monkeypatch.setattr(gpu_times, "product_seconds", lambda *_: 1.0)
    monkeypatch.setattr(gpu_cases, "product_seconds", lambda *_: 1.0)
    monkeypatch.setattr(gpu_times, "L1_SHAPE", DENSE)
    for cases in ("CASES", "BIT_CASES", "FURTHER_BIT_CASES"):
        monkeypatch.setattr(gpu_times, cases, CASES[:1])
    here = lambda processes, mp_context: concurrent.futures.ThreadPoolExecutor(1)  # noqa: E731
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", here)
    rows = list(TABLES[table]())
    assert rows
    for row in rows:
        json.dumps(row)
        assert "error" not in row, row
        assert row.get("verdict", "ok") == "ok", row


def few_rounds(advance, *, warm_up: int, steps: int, rounds: int) -> gpu_cases.Times:
    return gpu_cases.timed(advance, warm_up=1, steps=1, rounds=1)


def test_the_engine_finishes_the_grid() -> None:
    rows = RandomRows(8, 12)
    trials = [settle(Shape(8, 16, k, 4), steps=3, precision="fp32") for k in (1, 5)]
    for apart in (0, 2):
        outcomes = gpu_times._through_the_engine(trials, rows, apart)
        assert [outcome.status for outcome in outcomes] == ["done", "done"]


def raising() -> Iterator[Row]:
    yield {"known": 1}
    raise RuntimeError("simulated")


def test_a_failure_of_every_section_loses_nothing_that_was_known(tmp_path: Path) -> None:
    """Every section of both parts raises after its first line, in a process of its own."""
    for part, sections in gpu.SECTIONS.items():
        report = Report(tmp_path / f"part{part}", "a device")
        supervise(failing, dict.fromkeys(sections, 60.0), 60, report)
        text = (tmp_path / f"part{part}.md").read_text()
        assert text.count("| 1 |") == len(sections)
        for title in sections:
            assert f"{title}: FAILED after 0 s: RuntimeError: simulated" in text


def failing(left: list[str]) -> list[str]:
    script = f"""
import sys, torch
sys.path.append({str(HERE)!r})
from benchmarks import gpu, gpu_cases
from test_gpu_benchmark import raising
gpu_cases.DEVICE = torch.device("cpu")
gpu.work({{title: gpu.Section(raising, 1) for title in sys.argv[1:]}}, sys.stdout)
"""
    return [sys.executable, "-c", script, *left]


HERE = Path(__file__).parent


def test_a_section_that_hangs_or_dies_costs_itself_alone(tmp_path: Path) -> None:
    script = """
import json, os, sys, time
print("compiling", flush=True)
print("{not json", flush=True)
print('{"x": 1}', flush=True)
for title in sys.argv[1:]:
    print(json.dumps({"begin": title}), flush=True)
    print(json.dumps({"row": {"of": title}}), flush=True)
    if title == "hangs": time.sleep(60)
    if title == "dies": os._exit(9)
    print(json.dumps({"end": "0 s"}), flush=True)
"""
    report = Report(tmp_path / "found", "a device")
    limits = {"one": 9.0, "hangs": 0.3, "two": 9.0, "dies": 9.0, "three": 9.0}
    supervise(lambda left: [sys.executable, "-c", script, *left], limits, 30, report)
    text = (tmp_path / "found.md").read_text()
    assert report.wrong
    for line in (
        *("| one |", "| hangs |", "| two |", "| dies |", "| three |", "one: 0 s", "three: 0 s"),
        *("hangs: STOPPED: its time was over", "dies: FAILED: its process ended with 9"),
    ):
        assert line in text
    kept = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert {"section": "dies", "row": {"of": "dies"}} in kept


def test_a_section_that_hangs_takes_its_own_processes_with_it(tmp_path: Path) -> None:
    """A child that holds the output would keep the part waiting for its end."""
    script = """
import json, subprocess, sys, time
print(json.dumps({"begin": sys.argv[1]}), flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""
    report = Report(tmp_path / "found", "a device")
    began = time.monotonic()
    supervise(lambda left: [sys.executable, "-c", script, *left], {"one": 0.5}, 20, report)
    assert time.monotonic() - began < 15
    assert "one: STOPPED: its time was over" in (tmp_path / "found.md").read_text()


def test_what_is_left_when_the_time_is_over_is_named(tmp_path: Path) -> None:
    report = Report(tmp_path / "found", "a device")
    script = "import json, time; print(json.dumps({'begin': 'one'}), flush=True); time.sleep(60)"
    limits = {"one": 60.0, "two": 60.0}
    supervise(lambda left: [sys.executable, "-c", script], limits, 0.5, report)
    text = (tmp_path / "found.md").read_text()
    assert "one: STOPPED: its time was over" in text
    assert "two: left out: 0 s were over" in text


def test_a_process_that_cannot_begin_is_not_tried_for_ever(tmp_path: Path) -> None:
    report = Report(tmp_path / "found", "a device")
    supervise(lambda left: [sys.executable, "-c", ""], {"one": 9.0}, 30, report)
    assert "one: FAILED: no process could begin it" in (tmp_path / "found.md").read_text()


def test_wrong_results_are_an_error_and_an_unusable_device_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(tmp_path / "found", "a device")
    report.row("one", {"verdict": "ok"})
    assert not report.wrong
    report.row("one", {"verdict": "WRONG: selection"})
    assert report.wrong

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "synchronise", broken)
    with (tmp_path / "out").open("w") as out:
        assert not work({"one": Section(raising, 1), "two": Section(raising, 1)}, out)
    assert "two" not in (tmp_path / "out").read_text()


def test_both_parts_fit_their_call() -> None:
    for sections in gpu.SECTIONS.values():
        assert next(iter(sections)) == "Ceilings"
    assert list(gpu.SECTIONS[1])[2:4] == ["Correctness", "Bits"]


ALLOWED = (
    *("torch", "triton", "numpy", "safetensors", "scipy", "pyarrow", "jaxtyping"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions"),
)
"""What the machine has or the command carries."""


def test_it_imports_nothing_that_a_bare_machine_lacks() -> None:
    """Every other distribution of this environment is blocked, unless torch itself needs it."""
    script = f"""
import importlib.metadata as metadata, sys
from packaging.requirements import Requirement
allowed, queue = set(), {list(ALLOWED)!r}
while queue:  # what those themselves require
    name = queue.pop()
    if name in allowed: continue
    allowed.add(name)
    try: required = metadata.requires(name) or []
    except metadata.PackageNotFoundError: continue
    queue += [r.name for r in map(Requirement, required) if not r.marker or r.marker.evaluate()]
names = {{name.lower().replace("-", "_") for name in allowed}}
for module, owners in metadata.packages_distributions().items():
    mine = {{owner.lower().replace("-", "_") for owner in owners}}
    if not mine & names and "sae_sweep" not in mine and module.isidentifier():
        sys.modules[module] = None
assert sys.modules["pandas"] is None and sys.modules["hydra"] is None
import benchmarks.gpu
from sae_sweep.train import engine
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--part", "1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "needs a GPU and none is visible here" in capsys.readouterr().err
