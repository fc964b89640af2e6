"""Folders of claims: the latest holder has the trial; only what was accepted is put in place."""

import random
import threading
from pathlib import Path

import pytest

from sae_sweep.errors import BadInput
from sae_sweep.tune import trial_folder
from sae_sweep.tune.trial_folder import settle, take_over


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(folder.name)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_later_claim_takes_the_checkpoints_and_leaves_the_earlier_one_nowhere_to_write(
    tmp_path,
) -> None:
    first = take_over(tmp_path / "t", 5)
    fill(first, "resume.safetensors", ".resume.safetensors.x.part", "sae.safetensors")
    second = take_over(tmp_path / "t", 7)
    assert names(tmp_path / "t") == ["claim-7/resume.safetensors"]
    assert (second / "resume.safetensors").read_text() == "claim-5"
    assert not first.exists()
    with pytest.raises(BadInput, match=r"claim-7 is in use under a later claim"):
        take_over(tmp_path / "t", 6)
    assert names(tmp_path / "t") == ["claim-7/resume.safetensors"]


def test_what_an_earlier_claim_has_finished_is_not_put_in_place(tmp_path) -> None:
    first = take_over(tmp_path / "t", 5)
    fill(first, "sae.safetensors", "config.json")
    second = take_over(tmp_path / "t", 7)
    fill(second, "sae.safetensors", "config.json", "resume.safetensors")
    settle(tmp_path / "t", 7, "done", keep_weights=True)
    settle(tmp_path / "t", 5, "done", keep_weights=True)
    assert names(tmp_path / "t") == ["config.json", "sae.safetensors"]
    assert (tmp_path / "t" / "sae.safetensors").read_text() == "claim-7"


def test_settling_does_not_touch_a_later_claim(tmp_path) -> None:
    take_over(tmp_path / "t", 5)
    later = take_over(tmp_path / "t", 7)
    fill(later, "resume.safetensors", ".sae.safetensors.x.part")
    for status in ("done", "failed", "diverged", "interrupted", "stopped"):
        settle(tmp_path / "t", 5, status, keep_weights=True)
    assert len(names(tmp_path / "t")) == 2


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("done", ["config.json", "latents.parquet", "sae.safetensors"]),
        ("failed", []),
        ("interrupted", ["claim-5/resume.safetensors"]),
        ("stopped", ["claim-5/resume.safetensors"]),
    ],
)
def test_what_an_end_leaves(tmp_path, status, left) -> None:
    mine = take_over(tmp_path / "t", 5)
    fill(mine, "resume.safetensors")
    if status == "done":
        fill(mine, "sae.safetensors", "config.json", "latents.parquet")
    for _ in range(2):
        settle(tmp_path / "t", 5, status, keep_weights=True)
    assert names(tmp_path / "t") == left
    assert (tmp_path / "t").exists() == bool(left)


def test_checkpoints_from_before_claims_are_taken_along(tmp_path) -> None:
    (tmp_path / "t").mkdir()
    fill(tmp_path / "t", "resume.safetensors", "resume.previous.safetensors")
    take_over(tmp_path / "t", 5)
    assert names(tmp_path / "t") == [
        "claim-5/resume.previous.safetensors",
        "claim-5/resume.safetensors",
    ]


def test_of_many_who_take_over_at_once_the_latest_has_it(tmp_path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        fill(take_over(folder, 1), "resume.safetensors")
        numbers, won = list(range(2, 10)), []
        random.Random(attempt).shuffle(numbers)

        def take(number: int, folder: Path = folder, won: list[int] = won) -> None:
            try:
                take_over(folder, number)
                won.append(number)
            except (BadInput, OSError):
                pass

        threads = [threading.Thread(target=take, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 9 in won
        assert names(folder) == ["claim-9/resume.safetensors"]


def test_starting_afresh_leaves_a_later_claim_alone(tmp_path) -> None:
    fill(take_over(tmp_path / "t", 5), "resume.safetensors")
    fill(tmp_path / "t", "sae.safetensors")
    trial_folder.empty(tmp_path / "t", 5)
    assert names(tmp_path / "t") == ["claim-5/resume.safetensors"]
    trial_folder.empty(tmp_path / "nowhere", 5)


def test_a_link_in_the_place_of_a_claim_is_not_followed(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    fill(tmp_path / "mine", "keep")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "claim-3").symlink_to(tmp_path / "mine")
    take_over(tmp_path / "t", 5)
    settle(tmp_path / "t", 5, "failed", keep_weights=True)
    assert names(tmp_path / "mine") == ["keep"]
