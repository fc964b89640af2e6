"""Folders of trials in remote outputs: what one machine leaves, any other goes on with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_sweep.config import TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.remote import INDEX, VARIABLE, Remote, local_folder, remote_of
from sae_sweep.sae import build, save
from sae_sweep.sae.base import Normalisation
from sae_sweep.train import checkpoint
from sae_sweep.tune.trials import Trials

Machine = Callable[[str], Trials]


@pytest.fixture
def there(tmp_path) -> Remote:
    return Remote(f"file://{tmp_path}/there", tmp_path / "nobody")


@pytest.fixture
def machine(there, tmp_path, monkeypatch) -> Machine:
    def of(name: str) -> Trials:
        monkeypatch.setenv(VARIABLE, str(tmp_path / name))
        return Trials(local_folder(there.url))

    return of


def state(step: int) -> checkpoint.State:
    return checkpoint.State({"w": torch.full((2,), float(step))}, {"step": step, "seconds": 1.0})


def step(folder: Path) -> int | None:
    found = checkpoint.load(folder, "uid")
    return None if found is None else found.step


def finish(trials: Trials, folder: Path) -> None:
    sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
    sae.normalisation = Normalisation(torch.zeros(4), 1.0)
    save(folder, sae, {"sae": {"kind": "topk", "n_latents": 8, "k": 2}})
    (folder / "latents.parquet").write_text("a table")
    trials.hand_in(folder)
    trials.release(folder)


def test_a_trial_goes_on_from_the_latest_upload_whatever_lies_in_a_mirror(machine) -> None:
    one, other = machine("one"), machine("other")
    first = one.take_over("t", 5)
    assert step(first) is None
    one.save(first, "uid", state(10))
    second = other.take_over("t", 6)
    assert step(second) == 10
    other.save(second, "uid", state(20))
    other.release(second)
    assert list(other.root.iterdir()) == []
    checkpoint.save(first, "uid", state(15))  # never uploaded
    assert step(one.take_over("t", 6)) == 20  # the same claim: it was given back for want of room
    assert not first.exists()
    assert step(machine("third").take_over("t", 7)) == 20
    with pytest.raises(BadInput, match="t has a checkpoint under claim 6, later than 5"):
        one.take_over("t", 5)


def test_results_are_in_place_only_when_they_are_accepted(machine, there) -> None:
    slot, driver = machine("one"), machine("two")
    mine = slot.take_over("t", 5)
    slot.save(mine, "uid", state(10))
    finish(slot, mine)
    assert list(slot.root.iterdir()) == []
    assert there.index("trials/t") is None
    assert driver.unsettled() == {"t"}
    for _ in range(2):
        driver.settle("t", 5, "done", keep_weights=True)
        names = {"config.json", "latents.parquet", "sae.safetensors", INDEX}
        assert there.names("trials/t") == names
    assert driver.unsettled() == set()
    assert not driver.damaged("t")


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("failed", set()),
        ("interrupted", {"claim-5/resume.safetensors", "claim-7/resume.safetensors"}),
        ("stopped", {"claim-5/resume.safetensors", "claim-7/resume.safetensors"}),
    ],
)
def test_checkpoints_stay_while_a_trial_may_go_on(machine, there, status, left) -> None:
    trials = machine("one")
    for number in (5, 7):
        trials.save(trials.take_over("t", number), "uid", state(number))
    trials.settle("t", 7, status, keep_weights=True)
    assert there.names("trials/t") == left


def test_weights_that_nobody_keeps_or_that_were_lost_are_known(machine, there, tmp_path) -> None:
    trials = machine("one")
    for name, keep in (("kept", True), ("dropped", False)):
        finish(trials, trials.take_over(name, 1))
        trials.settle(name, 1, "done", keep_weights=keep)
    assert "sae.safetensors" not in there.names("trials/dropped")
    assert not trials.damaged("kept")
    assert trials.damaged("dropped")
    path = tmp_path / "there" / "trials" / "kept" / "sae.safetensors"
    whole = path.read_bytes()
    for wrong in (whole[:-1] + b"x", None):
        path.unlink() if wrong is None else path.write_bytes(wrong)
        assert trials.damaged("kept")
        path.write_bytes(whole)
        assert not trials.damaged("kept")
    trials.drop_weights(["kept", "dropped", "never"])
    assert there.names("trials/kept") == {"config.json", "latents.parquet", INDEX}


def test_a_trial_that_is_to_start_afresh_finds_nothing(machine, there) -> None:
    trials = machine("one")
    trials.save(trials.take_over("t", 1), "uid", state(10))
    finish(trials, trials.take_over("t", 2))
    trials.settle("t", 2, "done", keep_weights=True)
    remote = remote_of(local_folder(there.url))
    assert remote is not None
    remote.fetch("trials/t")
    trials.empty("t", 3)
    assert there.names("trials/t") == set()
    assert step(trials.take_over("t", 3)) is None
