"""The host never limits the device: what it does for a step is counted, without a GPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from sae_sweep.config import Trial
from sae_sweep.train import pack, pack_steps
from sae_sweep.train.pack import Pack, pack_key

# the interpreter is NumPy, which warns of what a mask then leaves out
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

NO_WORK = frozenset(
    [
        *("view", "unbind", "select", "slice", "t", "transpose", "expand", "unsqueeze", "squeeze"),
        *("as_strided", "reshape", "alias", "detach", "split", "narrow", "permute", "unfold"),
        *("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty"),
    ]
)
"""Operations that launch nothing."""

SORT = 9
"""What `torch.sort` launches, at most, where there are many entries."""

WAITS = {"_local_scalar_dense", "nonzero", "item"}


class Operations(TorchDispatchMode):
    """Counts what PyTorch would launch."""

    def __init__(self, into: Counter[str]) -> None:
        super().__init__()
        self._into = into

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_WORK:
            self._into[name] += SORT if name == "sort" else 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count launches, PyTorch's and Triton's; kernels do nothing meanwhile."""
    found: Counter[str] = Counter()

    def launch(self: Any, *args: Any, **named: Any) -> None:
        found[self.fn.__name__] += 1

    with monkeypatch.context() as patched, Operations(found):
        patched.setattr(interpreter.InterpretedFunction, "run", launch)
        tolist = torch.Tensor.tolist

        def waits(self: torch.Tensor) -> Any:
            found["item"] += 1
            return tolist(self)

        patched.setattr(torch.Tensor, "tolist", waits)
        yield found


@pytest.fixture
def packed(
    activations: Any, make_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Pack]:
    """A pack of trials: packed([(settings of sae, of train), ...])."""
    monkeypatch.setattr(pack, "PAGE", 16)

    def made(settings: list[tuple[dict[str, Any], dict[str, Any]]]) -> Pack:
        fused = {"kernels": "fused", "precision": "bf16", "batch_size": 4, "steps": 10**5}
        trials = [make_trial(sae, **(fused | train)) for sae, train in settings]
        found = Pack(activations, pack_key(trials[0]), torch.device("cpu"))
        for trial in trials:
            found.join(trial)
        return found

    return made


def nodes(made: Pack, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a recorded step of all members consists of."""
    recordings = []

    def record(update: Callable[[], None], *_: object) -> Callable[[], None]:
        with counting(monkeypatch) as found:
            update()
        recordings.append(found)
        return lambda: None

    monkeypatch.setattr(pack_steps, "record", record)
    made.update(dict.fromkeys(made._members.values(), 0), 1)
    (found,) = recordings
    assert not found.keys() & WAITS
    return found


def test_a_step_of_one_small_trial_is_35_launches_at_most(packed, monkeypatch) -> None:
    monkeypatch.setattr(pack, "sparse_up_to", lambda *_: 0.1)
    found = nodes(packed([({"n_latents": 64, "k": 5, "aux_coeff": 0}, {})]), monkeypatch)
    assert found["choose"] == 1
    assert found.total() <= 35, found


def test_a_step_of_a_grid_of_12_is_45_launches_at_most(packed, monkeypatch) -> None:
    monkeypatch.setattr(pack, "sparse_up_to", lambda *_: 0.1)
    grid = [
        ({"n_latents": n, "k": k, "aux_coeff": 0}, {}) for n in (32, 48, 64) for k in (1, 2, 3, 20)
    ]
    found = nodes(packed(grid), monkeypatch)
    assert found["decode_token"] == found["dz_kernel"] == 1  # both forms
    assert found.total() <= 45, found


@pytest.mark.parametrize("kind", ["topk", "l1"])
def test_staggered_members_are_staged_many_steps_at_once(packed, monkeypatch, kind: str) -> None:
    """12 members at 12 different steps, as they are where freed places are refilled."""
    sae = {"kind": kind, "n_latents": 16} | ({"aux_coeff": 0} if kind == "topk" else {})
    made = packed([(sae, {"seed_data": seed}) for seed in range(12)])
    launched, chunks = Counter[str](), []

    def record(update: Callable[[], None], *_: object) -> Callable[[], None]:
        return lambda: launched.update(["step"])

    stage = pack_steps.PackSteps._stage

    def staged(self: Any, step: Any, ahead: Any, parts: Any, count: int) -> None:
        chunks.append(count)
        stage(self, step, ahead, parts, count)

    monkeypatch.setattr(pack_steps, "record", record)
    monkeypatch.setattr(pack_steps.PackSteps, "_stage", staged)
    offsets = {member: 37 * i for i, member in enumerate(made._members.values())}
    made.update(offsets, 1)
    offsets = {member: member.step for member in offsets}
    launched.clear()
    chunks.clear()
    with counting(monkeypatch) as found:
        made.update(offsets, 1024)
    assert launched["step"] == 1024
    assert found.total() <= 15 * 1024, found
    assert sum(found[name] for name in WAITS) <= 0.1 * 1024, found
    assert 1024 / len(chunks) >= 64
    assert found.total() <= 1024, found
