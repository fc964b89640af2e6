"""Trials in a pack: nobody's bits depend on who else is there; the reference's within rounding."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.table import MOST_STEPS
from sae_sweep.records import Outcome
from sae_sweep.train import chunk, member, pack, pack_steps, solo

# the interpreter is NumPy, which warns of what a mask then leaves out
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

STEPS = 14
"""More than every window, cadence and change of form below; the interpreter is slow."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after another: small pages, and both forms at any width."""
    monkeypatch.setattr(pack, "PAGE", 16)
    monkeypatch.setattr(pack, "sparse_up_to", lambda *_: 0.15)
    monkeypatch.setattr(pack, "FORM_STEPS", 4)


@pytest.fixture
def device() -> str:
    """The interpreter, or with TRITON_INTERPRET=0 a GPU."""
    return "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


@pytest.fixture
def fused(make_trial: Callable[..., Trial]) -> Callable[..., Trial]:
    """A short fused trial in float32."""

    def made(sae: dict[str, Any], **train: Any) -> Trial:
        settings = {"kernels": "fused", "precision": "fp32", "batch_size": 4, "steps": STEPS}
        return make_trial(sae, **(settings | train))

    return made


SPARSE_TOPK = ({"n_latents": 16, "k": 2, "aux_coeff": 0}, {"lr": 3e-3})
DENSE_TOPK = ({"n_latents": 13, "k": 5, "aux_coeff": 0}, {"beta1": 0.8, "seed_data": 1})
SPARSE_AUX = ({"n_latents": 20, "k": 1, "aux_coeff": 0.5}, {"dead_window_tokens": 12})
DENSE_AUX = ({"n_latents": 12, "k": 4}, {"dead_window_tokens": 8, "lr_warmup_fraction": 0.5})
FREE_L1 = ({"kind": "l1", "n_latents": 12, "l1_alpha": 2.0}, {"seed_init": 4, "steps": 15})
UNIT_L1 = ({"kind": "l1", "n_latents": 9, "l1_alpha": 9.0, "l1_norm": "unit"}, {"beta2": 0.99})
OFTEN = {"always_on_coeff": 2.0, "always_on_threshold": 0.3}
USAGE = {"n_latents": 12, "aux_kind": "usage", "aux_coeff": 3.0, "aux_target": 0.2} | OFTEN
CONTROLLED = {"l0_controller": True, "l0_target": 0.1, "l0_target_start": 0.3, "steps": 14}
SHORT = {"steps": 14, "lr": 2e-3}
BATCH = {"kind": "batchtopk", "n_latents": 12, "aux_coeff": 0.5}
NESTED = BATCH | {"kind": "matryoshka", "prefixes": "3/12"}
JUMP = {"kind": "jumprelu", "n_latents": 12, "threshold_init": 0.4}
FURTHER = {
    "sparse with usage": (USAGE | {"n_latents": 20, "k": 2}, {"seed_data": 3, "steps": 12}),
    "dense with usage": (USAGE | {"k": 4, "always_on_coeff": 0.5}, {"lr": 2e-3, "steps": 12}),
    "l1 penalised where always on": (FREE_L1[0] | OFTEN, {"steps": 12}),
    "controlled": (FREE_L1[0] | {"l1_alpha": 1.0}, CONTROLLED),
    "sparse batchtopk": (BATCH | {"n_latents": 36, "k": 1}, {"dead_window_tokens": 12, **SHORT}),
    "dense batchtopk": (BATCH | OFTEN | {"k": 4}, {"dead_window_tokens": 8, **SHORT}),
    "sparse matryoshka": (
        *(NESTED | {"n_latents": 40, "k": 1, "prefixes": "5/24/40"},),
        {"dead_window_tokens": 12, **SHORT},
    ),
    "dense matryoshka": (NESTED | OFTEN | {"k": 4}, {"dead_window_tokens": 8, **SHORT}),
    "jumprelu": (JUMP | {"target_l0": 3, "pre_act_coeff": 0.5}, {"dead_window_tokens": 8, **SHORT}),
    "jumprelu, controlled": (JUMP | {"l0_coeff": 0.5, "n_latents": 18}, CONTROLLED),
}
ZOO = {
    "sparse topk": SPARSE_TOPK,
    "dense topk": DENSE_TOPK,
    "sparse with aux": SPARSE_AUX,
    "dense with aux": DENSE_AUX,
    "l1 with free rows": FREE_L1,
    "l1 with unit rows": UNIT_L1,
    "resampled": (UNIT_L1[0], {"resample_every": 6, "resample_after": 2, "seed_data": 2}),
}


@pytest.fixture
def diverges(fused) -> Trial:
    return fused({"aux_coeff": 0, "n_latents": 8}, lr=1e30, lr_warmup_fraction=0.0)


@pytest.mark.timeout(900)
def test_bits_do_not_depend_on_the_company(start, fused, diverges: Trial) -> None:
    """Alone, packed with seven others, joined late, beside one that diverges: the same bits."""
    trials = [fused(sae, **train) for sae, train in ZOO.values()]
    packed = start("packed")
    for trial in (trials[3], diverges, trials[0], trials[5]):
        packed.engine.add(trial)
    packed.advance(5)
    for trial in (trials[6], trials[1], trials[4], trials[2]):
        packed.engine.add(trial)
    packed.finish(7)
    assert packed.outcomes[diverges.uid].status == "diverged", packed.outcomes[diverges.uid]
    assert {packed.outcomes[trial.uid].status for trial in trials} == {"done"}
    for trial in (trials[0], trials[2], trials[4], trials[6]):  # others cost a minute more
        alone = start("alone")
        alone.engine.add(trial)
        alone.finish(50)
        assert alone.outcomes[trial.uid].final == packed.outcomes[trial.uid].final
        assert alone.rows[trial.uid] == packed.rows[trial.uid]
        assert alone.weights(trial) == packed.weights(trial)


@pytest.mark.timeout(900)
def test_bits_of_further_losses_do_not_depend_on_the_company(start, fused) -> None:
    trials = [fused(sae, **{**train, "steps": 6}) for sae, train in FURTHER.values()]
    packed = start("packed")
    for trial in trials[1::2]:
        packed.engine.add(trial)
    packed.advance(3)
    for trial in trials[::2]:
        packed.engine.add(trial)
    packed.finish(5)
    for trial in trials:
        alone = start("alone")
        alone.engine.add(trial)
        alone.finish()
        assert alone.outcomes[trial.uid].final == packed.outcomes[trial.uid].final
        assert alone.weights(trial) == packed.weights(trial)


@pytest.mark.parametrize(
    "name",
    [
        "sparse with aux",
        "resampled",
        "controlled",
        "sparse batchtopk",
        "sparse matryoshka",
        "jumprelu",
    ],
)
def test_a_trial_goes_on_from_a_checkpoint_bit_for_bit(
    start, fused, name: str, monkeypatch
) -> None:
    sae, train = (ZOO | FURTHER)[name]
    trial = fused(sae, **{**train, "steps": 9})
    whole, first, second = start("whole"), start("first"), start("second")
    whole.engine.add(trial)
    whole.finish()
    first.engine.add(trial)
    first.advance(5)
    # what a checkpoint replaces is not fitted to the first batch before
    monkeypatch.setattr(solo, "calibrate", lambda *_: pytest.fail("calibrated again"))
    second.engine.add(trial, first.engine.state(trial.uid))
    second.finish()
    assert whole.outcomes[trial.uid].final == second.outcomes[trial.uid].final
    assert whole.weights(trial) == second.weights(trial)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "reproducible"),
    [
        *(("sparse topk", False), ("dense topk", True), ("l1 with free rows", False)),
        *(("sparse with aux", True), ("dense with aux", False), ("l1 with unit rows", True)),
        *((name, True) for name in FURTHER),
    ],
)
def test_training_is_that_of_the_reference(start, fused, name: str, reproducible: bool) -> None:
    sae, train = (ZOO | FURTHER)[name]
    trial = fused(sae, **train, reproducible=reproducible)
    plain = fused(sae, **train, kernels="auto")
    run = start("here")
    run.engine.add(trial)
    run.engine.add(plain)
    run.advance(trial.steps - 1)
    assert not run.outcomes, run.outcomes[trial.uid].error
    found, expected = (run.engine.state(one.uid).tensors for one in (trial, plain))
    for tensor in expected:
        wanted, got = expected[tensor].double(), found[tensor].double()
        assert (got - wanted).norm() <= 1e-4 * wanted.norm(), tensor
    run.finish()
    ends = [run.outcomes[one.uid].final for one in (trial, plain)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_an_error_in_a_step_fails_all_who_shared_it(start, fused, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    run = start("here")
    trials = [fused(sae, **train) for sae, train in (SPARSE_TOPK, DENSE_TOPK)]
    for trial in trials:
        run.engine.add(trial)
    monkeypatch.setattr(pack_steps.PackSteps, "run", broken)
    run.advance(1)
    for trial in trials:
        outcome = run.outcomes[trial.uid]
        assert isinstance(outcome, Outcome)
        assert (outcome.status, outcome.error) == ("failed", "RuntimeError: no such luck")
    assert run.engine.uids == ()


def test_l1_goes_by_active_latents_once_they_are_few(start, fused) -> None:
    trial = fused(FREE_L1[0] | {"l1_alpha": 60.0}, lr=1e-2, steps=40)
    run = start("here")
    run.engine.add(trial)
    forms = []
    for _ in range(9):
        run.advance(4)
        forms.append(int(run.engine.state(trial.uid).tensors["form"][0]))
    assert set(forms) == {pack.DENSE, pack.SPARSE}


def test_a_batch_with_too_many_active_latents_is_made_by_whole_rows(
    start, fused, monkeypatch
) -> None:
    """Room for none: every step by active latents overflows, and the results are the same."""
    trial = fused(FREE_L1[0] | {"l1_alpha": 20.0}, lr=1e-2, steps=12)
    states = []
    for share, room in ((0.0, 4), (1.0, 0.01)):
        monkeypatch.setattr(pack, "sparse_up_to", lambda *_, share=share: share)
        monkeypatch.setattr(pack, "ROOM", room)
        run = start(f"room {room}")
        run.engine.add(trial)
        run.advance(11)
        states.append(run.engine.state(trial.uid).tensors)
    for name, tensor in states[0].items():
        if name != "form":
            assert torch.equal(tensor, states[1][name]), name


class Shortage:
    """Memory that runs out at calls of a function while `short` says so; others go through."""

    def __init__(self, function: Callable[..., Any], short: Callable[..., bool]) -> None:
        self.function, self.short, self.failures = function, short, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.short(*args):
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.function(*args, **named)


PLACES = {
    "the table grows": (pack.pages, "grown", lambda *_: True),
    "it is drawn": (pack, "initial_sae", lambda *_: True),
    "it is written": (pack.pages, "put", lambda table, *_: len(table.page_member) > 1),
    "a step is built": (pack_steps, "Step", lambda table, *_: len(table.page_member) > 1),
    "a step is tried": (
        *(pack_steps.Step, "_whole_rows"),
        lambda step: len(step._table.page_member) > 1,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_newcomer_without_room_waits_and_the_others_keep_their_bits(
    start, fused, place: str, monkeypatch
) -> None:
    """Memory runs out at every place where a newcomer takes some."""
    one, other = (fused(sae, **train, steps=5) for sae, train in (SPARSE_TOPK, DENSE_TOPK))
    alone = start("alone")
    alone.engine.add(one)
    alone.finish()
    run = start("together")
    run.engine.add(one)
    run.advance(2)
    owner, name, short = PLACES[place]
    function = getattr(owner, name)
    shortage = Shortage(function, short)
    wrapped = shortage if owner is not pack_steps.Step else lambda step: shortage(step)
    monkeypatch.setattr(owner, name, wrapped)
    run.engine.add(other)
    run.advance(1)
    assert shortage.failures > 0
    (left,) = run.left
    assert (left.uid, left.state) == (other.uid, None)
    assert left.reason.endswith("OutOfMemoryError: CUDA out of memory)")
    assert run.engine.uids == (one.uid,)
    run.finish()
    assert run.outcomes[one.uid].final == alone.outcomes[one.uid].final
    assert run.weights(one) == alone.weights(one)


@pytest.mark.parametrize("room_for_two", [True, False])
def test_a_table_shrinks_with_room_for_two_or_by_way_of_the_host(
    start, fused, monkeypatch, room_for_two: bool
) -> None:
    one, other = (fused(sae, **train) for sae, train in (SPARSE_AUX, DENSE_TOPK))
    run = start("together")
    for trial in (other, one):
        run.engine.add(trial)
    run.advance(1)
    shared = run.engine._packed[one.uid].pack
    before, state = shared.table, run.engine.state(one.uid)

    def beside(count: int, *_: int) -> bool:
        return count > 1 and not room_for_two and shared.table is before

    short = Shortage(pack.empty_table, beside)
    monkeypatch.setattr(pack, "empty_table", short)
    take, by_way_of = pack.pages.take, []

    def noted(table: Any, slot: int, device: Any = None) -> dict[str, torch.Tensor]:
        by_way_of.append(device)
        return take(table, slot, device)

    monkeypatch.setattr(pack.pages, "take", noted)
    run.engine.remove(other.uid)
    shared.compact()
    assert short.failures == int(not room_for_two)
    assert by_way_of == ([None] if room_for_two else ["cpu"])
    assert len(shared.table.page_member) < len(before.page_member)
    for name, tensor in run.engine.state(one.uid).tensors.items():
        assert torch.equal(tensor, state.tensors[name]), name


def test_where_not_even_one_has_room_it_is_out_of_memory(start, fused, monkeypatch) -> None:
    monkeypatch.setattr(pack_steps, "Step", Shortage(pack_steps.Step, lambda *_: True))
    run = start("here")
    trials = [fused(sae, **train) for sae, train in (SPARSE_TOPK, DENSE_TOPK)]
    for trial in trials:
        run.engine.add(trial)
    run.advance(1)
    assert [left.uid for left in run.left] == [trials[1].uid]
    outcome = run.outcomes[trials[0].uid]
    assert (outcome.status, outcome.error) == ("oom", "OutOfMemoryError: CUDA out of memory")


def test_one_that_has_trained_leaves_with_its_state(start, fused, monkeypatch) -> None:
    """Memory that shrinks under two: the later goes on elsewhere from where it is."""
    one, other = (fused(sae, **train, steps=5) for sae, train in (SPARSE_TOPK, DENSE_TOPK))
    run, elsewhere, whole = start("here"), start("elsewhere"), start("whole")
    for trial in (one, other):
        run.engine.add(trial)
    whole.engine.add(other)
    run.advance(2)
    short = Shortage(pack_steps.Step, lambda table, *_: len(table.page_member) > 1)
    monkeypatch.setattr(pack_steps, "Step", short)
    run.engine._packed[one.uid].pack.steps.release()
    run.finish()
    (left,) = run.left
    assert (left.uid, left.state.step) == (other.uid, 2)
    elsewhere.engine.add(other, left.state)
    assert elsewhere.finish().weights(other) == whole.finish().weights(other)


def test_the_update_of_nobody_reads_what_is_staged(start, fused, monkeypatch) -> None:
    """It goes before a recording; after a whole chunk nothing is staged for a further step."""
    run = start("here")
    run.engine.add(fused(SPARSE_TOPK[0], steps=4))
    run.advance(1)
    (packed,) = run.engine._packed.values()
    steps = packed.pack.steps
    steps._ahead.at.fill_(MOST_STEPS - 1)
    steps._launches.clear()
    read = []

    def record(update: Callable[[], None], *_: object) -> Callable[[], None]:
        read.append(int(steps._ahead.at))
        return update

    monkeypatch.setattr(pack_steps, "record", record)
    run.advance(1)
    assert read == [0]


RESAMPLED = (UNIT_L1[0], {"resample_every": 3, "resample_after": 1, "steps": 5})


def test_resampling_without_memory_takes_that_of_the_steps(start, fused, monkeypatch) -> None:
    trial = fused(RESAMPLED[0], **RESAMPLED[1])
    whole, run = start("whole"), start("here")
    whole.engine.add(trial)
    whole.finish()
    run.engine.add(trial)
    run.advance(1)
    steps = run.engine._packed[trial.uid].pack.steps
    short = Shortage(pack.resample_silent, lambda *_: steps._step is not None)
    monkeypatch.setattr(pack, "resample_silent", short)
    run.finish(4)
    assert short.failures > 0
    assert run.weights(trial) == whole.weights(trial)


def test_one_that_cannot_be_resampled_waits_and_the_others_keep_their_bits(
    start, fused, monkeypatch
) -> None:
    """Both are resampled after the same update: what was not done to one is not done by halves."""
    one, other = (fused(RESAMPLED[0], **RESAMPLED[1], seed_init=seed) for seed in range(2))
    alone, run, later = start("alone"), start("together"), start("later")
    for trial in (one, other):
        alone.engine.add(trial)
        run.engine.add(trial)
    alone.finish()
    run.advance(2)
    state = run.engine.state(one.uid)
    resample = pack.resample_silent
    short = Shortage(resample, lambda trial, *_: trial.uid == one.uid)
    monkeypatch.setattr(pack, "resample_silent", short)
    run.finish()
    (left,) = run.left
    assert (left.uid, left.state) == (one.uid, None)  # it goes on from its last checkpoint
    assert run.weights(other) == alone.weights(other)
    monkeypatch.setattr(pack, "resample_silent", resample)
    later.engine.add(one, state)
    assert later.finish().weights(one) == alone.weights(one)


def test_a_graph_without_room_sends_the_last_member_away(start, fused, monkeypatch) -> None:
    one, other = (fused(sae, **train, steps=4) for sae, train in (SPARSE_TOPK, DENSE_TOPK))
    run, alone = start("here"), start("alone")
    alone.engine.add(one)
    alone.finish()

    def without_room(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(pack_steps, "record", without_room)
    for trial in (one, other):
        run.engine.add(trial)
    run.finish()
    assert [left.uid for left in run.left] == [other.uid]
    assert run.outcomes[one.uid].status == "done"
    assert run.weights(one) == alone.weights(one)


def test_buffers_of_fetched_rows_without_room_leave_the_resident_as_it_was(
    start, fused, monkeypatch
) -> None:
    one, other = (fused(sae, **train, steps=5) for sae, train in (SPARSE_TOPK, DENSE_TOPK))
    monkeypatch.setattr(pack_steps, "CPU_BYTES", 0)
    monkeypatch.setattr(chunk, "FETCHED_BYTES", 4 * 4 * 16)
    alone, run = start("alone"), start("together")
    alone.engine.add(one)
    alone.finish()
    run.engine.add(one)
    run.advance(2)
    short = Shortage(chunk.Fetched, lambda _activations, _device, need: need > 4)
    monkeypatch.setattr(chunk, "Fetched", short)
    run.engine.add(other)
    run.finish()
    assert short.failures > 0
    assert [left.uid for left in run.left] == [other.uid]
    assert run.weights(one) == alone.weights(one)


def test_what_trials_that_have_left_took_is_free_for_the_next(start, fused, monkeypatch) -> None:
    one, other = (fused(sae, **train, steps=2) for sae, train in (SPARSE_TOPK, DENSE_TOPK))
    run = start("here")
    run.engine.add(one)
    run.finish()
    (full,) = run.engine._packs.values()
    short = Shortage(pack.initial_sae, lambda *_: full in run.engine._packs.values())
    monkeypatch.setattr(pack, "initial_sae", short)
    run.engine.add(other)
    run.finish()
    assert short.failures == 1
    assert run.outcomes[other.uid].status == "done"


def test_a_report_without_memory_takes_that_of_the_steps(start, fused, monkeypatch) -> None:
    trial = fused(*SPARSE_TOPK[:1], steps=4, report_every=2)
    run = start("here")
    run.engine.add(trial)
    run.advance(1)
    steps = run.engine._packed[trial.uid].pack.steps
    short = Shortage(member.report, lambda *_: steps._step is not None)
    monkeypatch.setattr(member, "report", short)
    run.finish(4)
    assert short.failures > 0
    assert [row.step for row in run.rows[trial.uid]] == [2, 4]
    assert run.outcomes[trial.uid].status == "done"


def test_where_no_graph_can_be_recorded_training_goes_on_and_says_so_once(
    start, fused, monkeypatch, caplog
) -> None:
    trials = [fused(sae, **train, steps=4) for sae, train in (SPARSE_TOPK, DENSE_TOPK)]
    recorded, plain = start("recorded"), start("plain")
    for trial in trials:
        recorded.engine.add(trial)
        plain.engine.add(trial)
    recorded.finish()

    def broken(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(pack_steps, "record", broken)
    plain.finish(2)
    said = [line for line in caplog.messages if "no CUDA graph" in line]
    assert said == [
        "no CUDA graph can be recorded (RuntimeError: operation not permitted when stream is "
        "capturing): training goes on without, slower"
    ]
    for trial in trials:
        assert recorded.weights(trial) == plain.weights(trial)


def test_rows_that_do_not_stay_on_the_device_are_fetched_to_the_same_bits(
    start, fused, monkeypatch
) -> None:
    trials = [fused(sae, **train, steps=5) for sae, train in (SPARSE_TOPK, DENSE_TOPK)]
    runs = []
    for resident in (2**62, 0):
        monkeypatch.setattr(pack_steps, "CPU_BYTES", resident)
        monkeypatch.setattr(chunk, "FETCHED_BYTES", 3 * 4 * 4 * 16)
        run = start(f"room {resident}")
        run.engine.add(trials[0])
        run.advance(2)
        run.engine.add(trials[1])
        runs.append(run.finish(5))
    for trial in trials:
        assert runs[0].weights(trial) == runs[1].weights(trial)
