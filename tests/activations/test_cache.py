"""Shards that the disk does not hold: there, or computed again, to the same bits."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sae_sweep.activations import (
    Activations,
    Cache,
    Supplier,
    Wanted,
    cache,
    describe,
    extraction,
    open_activations,
    passes,
    preparation,
    prepare,
    verify,
)
from sae_sweep.activations.extraction import Extraction
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.plan import Planned, shards, stored_bytes
from sae_sweep.activations.reader import Rows, Split
from sae_sweep.config import ActivationsConfig, SyntheticConfig, TrainConfig
from sae_sweep.errors import BadInput, BadRows
from sae_sweep.train.source import batch

TRAIN, WINDOW, BATCH = 1000, 100, 40
TWO_WINDOWS = 200 * (4 * 8 + 6) / 1e9

Make = Callable[..., ActivationsConfig]


def synthetic(cache_gb: float | None = TWO_WINDOWS) -> ActivationsConfig:
    return ActivationsConfig(
        synthetic=SyntheticConfig(),
        d=8,
        train_tokens=TRAIN,
        validation_tokens=50,
        window_rows=WINDOW,
        cache_gb=cache_gb,
    )


def prepared(outputs: Path, *configs: ActivationsConfig) -> list[Wanted]:
    wanted = [Wanted(one, describe(one, outputs)) for one in configs]
    for together in passes(wanted):
        list(prepare(together, outputs))
    return wanted


OPENED: list[Activations] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(outputs: Path, one: Wanted, *others: Wanted) -> Activations:
    bounded = one.config.cache_gb is not None
    cache = Cache([one, *others], outputs) if bounded else None
    OPENED.append(open_activations(one.folder(outputs), cache))
    return OPENED[-1]


def epoch(activations: Activations, first: int = 0, steps: int = 25) -> torch.Tensor:
    """What training sees in some steps."""
    settings, seen = TrainConfig(batch_size=BATCH, seed_data=3), []
    for step in range(first, first + steps):
        while not activations.reach([(step * BATCH, (step + 1) * BATCH)]):
            pass
        seen.append(batch(activations, settings, step))
    return torch.cat(seen)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the training shards that were computed."""
    compute, names = Extraction.compute, []

    def recording(self: Extraction, shard: Planned, sources: list[int]) -> list[int]:
        done = list(compute(self, shard, sources))
        if done and shard.split == "train":
            names.append(shard.name)
        return done

    monkeypatch.setattr(Extraction, "compute", recording)
    return names


def test_rows_are_the_same_bits_with_a_cache_of_a_fifth_and_without_one(
    tmp_path: Path, computed: list[str]
) -> None:
    (whole,) = prepared(tmp_path / "whole", synthetic(None))
    (one,) = prepared(tmp_path / "part", synthetic())
    assert one.source == whole.source
    computed.clear()
    activations = opened(tmp_path / "part", one)
    expected = opened(tmp_path / "whole", whole)
    assert torch.equal(epoch(activations), epoch(expected))
    assert computed == [shard.name for shard in shards(one, "train")][1:]  # 0 gave the mean
    # a second epoch, and a batch that lies in both
    assert torch.equal(epoch(activations, 25, 10), epoch(expected, 25, 10))
    assert (activations.scale, activations.mean.tolist()) == (
        expected.scale,
        expected.mean.tolist(),
    )
    folder = one.folder(tmp_path / "part")
    there = sum(path.stat().st_size for path in folder.glob("train-*"))
    assert there < 3 * stored_bytes(one, WINDOW)
    verify(folder, tmp_path / "part")


def test_without_the_bound_what_is_missing_is_computed_and_stays(tmp_path: Path) -> None:
    (one,) = prepared(tmp_path, synthetic())
    assert len(list(one.folder(tmp_path).glob("train-*"))) == 1
    (whole,) = prepared(tmp_path, synthetic(None))
    assert len(list(whole.folder(tmp_path).glob("train-*"))) == 10
    manifest = read_manifest(whole.folder(tmp_path))
    assert all(shard.sha256 for shard in manifest.shards)
    fresh = prepared(tmp_path / "fresh", synthetic(None))[0].folder(tmp_path / "fresh")
    assert read_manifest(fresh) == manifest


def test_readers_beside_each_other_compute_each_shard_once(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SECONDS_BETWEEN_LOOKS", 0.005)
    (one,) = prepared(tmp_path, synthetic())
    computed.clear()
    found: dict[int, torch.Tensor] = {}
    readers = [opened(tmp_path, one) for _ in range(3)]
    for reader in readers:  # one that begins when others are far ahead has a pass of its own
        assert reader.reach([(0, BATCH)])

    def read(number: int) -> None:
        found[number] = epoch(readers[number])
        readers[number].close()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert sorted(computed) == [shard.name for shard in shards(one, "train")][1:]


def test_a_supplier_computes_ahead_of_its_readers_and_no_further_than_the_cache_holds(
    tmp_path: Path, computed: list[str]
) -> None:
    (one,) = prepared(tmp_path, synthetic())
    whole = epoch(opened(tmp_path / "whole", *prepared(tmp_path / "whole", synthetic(None))))
    reader, supplier = opened(tmp_path, one), Supplier([one], tmp_path)
    list(supplier.prepare())
    assert not supplier.supply()  # nobody reads
    computed.clear()
    assert reader.reach([(0, BATCH)])
    seen, ahead = [], []
    settings = TrainConfig(batch_size=BATCH, seed_data=3)
    for step in range(25):
        while not reader.reach([(step * BATCH, (step + 1) * BATCH)]):
            assert supplier.supply()  # the reader itself computes nothing
        seen.append(batch(reader, settings, step))
        while supplier.supply():
            pass
        ahead.append(sum(path.stat().st_size for path in one.folder(tmp_path).glob("train-*")))
    assert torch.equal(torch.cat(seen), whole)
    names = [shard.name for shard in shards(one, "train")]
    assert computed == [*names[1:], names[0]]  # at the end, what another epoch would begin with
    assert max(ahead) < 2.2 * TWO_WINDOWS * 1e9
    supplier.close()
    assert epoch(reader, 25).shape == whole.shape  # now it computes by itself


def test_what_training_begins_with_is_left_to_a_supplier_as_long_as_it_lives(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SECONDS_BETWEEN_LOOKS", 0.0)
    one = Wanted(synthetic(), describe(synthetic(), tmp_path))
    supplier = Supplier([one], tmp_path)
    waiting = prepare([one], tmp_path)
    assert [next(waiting) for _ in range(3)] == [(0, 150)] * 3
    assert computed == []
    supplier.close()
    assert list(waiting)[-1] == (150, 150)


def test_a_window_that_a_reader_is_in_is_not_removed(tmp_path: Path) -> None:
    (one,) = prepared(tmp_path, synthetic())
    slow, fast = opened(tmp_path, one), opened(tmp_path, one)
    slow.reach([(0, BATCH)])
    # far ahead, where it waits for nobody
    epoch(fast, first=13, steps=10)
    assert (one.folder(tmp_path) / "train-00000.safetensors").exists()
    slow.close()
    epoch(fast, first=23, steps=10)  # the first window once more, and others
    assert not (one.folder(tmp_path) / "train-00000.safetensors").exists()


def test_a_reader_waits_for_one_whose_windows_it_would_remove(tmp_path: Path) -> None:
    (one,) = prepared(tmp_path, synthetic())
    slow, fast = opened(tmp_path, one), opened(tmp_path, one)
    slow.reach([(0, BATCH)])
    while not fast.reach([(WINDOW, WINDOW + BATCH)]):
        pass
    assert not any(fast.reach([(2 * WINDOW, 2 * WINDOW + BATCH)]) for _ in range(4))
    assert not (one.folder(tmp_path) / "train-00002.safetensors").exists()
    slow.reach([(WINDOW, WINDOW + BATCH)])
    while not fast.reach([(2 * WINDOW, 2 * WINDOW + BATCH)]):
        pass
    assert not (one.folder(tmp_path) / "train-00000.safetensors").exists()


@pytest.mark.slow
def test_a_reader_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    (one,) = prepared(tmp_path, synthetic())
    child = """
import os, signal, sys
from pathlib import Path
from sae_sweep.activations import Cache, Wanted, describe, open_activations
from sae_sweep.config import ActivationsConfig
config, outputs = ActivationsConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
one = Wanted(config, describe(config, outputs))
open_activations(one.folder(outputs), Cache([one], outputs)).reach([(0, 10)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run(
        [sys.executable, "-c", child, one.config.model_dump_json(), str(tmp_path)], check=False
    )
    notes = tmp_path / "cache" / "readers" / one.source.fingerprint
    assert len(list(notes.glob("*.json"))) == 1
    epoch(opened(tmp_path, one), first=13, steps=10)
    assert not (one.folder(tmp_path) / "train-00000.safetensors").exists()


def test_layers_that_are_read_at_the_same_place_share_the_pass(
    model_config: Make, tmp_path: Path, computed: list[str]
) -> None:
    settings = {"train_tokens": 300, "window_rows": 30, "cache_gb": 60 * (4 * 16 + 18) / 1e9}
    wanted = prepared(tmp_path, *(model_config("gpt2", layer=n, **settings) for n in (1, 3)))
    computed.clear()
    first, second = Cache(wanted, tmp_path), Cache(wanted[::-1], tmp_path)
    for one in (first, second):
        one.hold([1])
    assert not second.bring()  # one more shard is there now
    assert computed == ["train-00001.safetensors"]
    assert first.bring()
    assert second.bring()
    assert len(computed) == 1
    for one in (first, second):
        one.close()


def test_layers_that_are_read_side_by_side_share_the_pass_as_far_as_the_cache_reaches(
    model_config: Make, tmp_path: Path, computed: list[str]
) -> None:
    bound = 60 * (4 * 16 + 18)
    settings = {"train_tokens": 300, "window_rows": 30, "cache_gb": bound / 1e9}
    wanted = prepared(tmp_path, *(model_config("gpt2", layer=n, **settings) for n in (1, 3)))
    computed.clear()
    first, second = Cache(wanted, tmp_path), Cache(wanted[::-1], tmp_path)
    first.hold([0])
    second.hold([0])
    for window in range(1, 10):
        for one in (first, second):
            one.hold([window])
            while not one.bring():
                pass
    assert computed == [shard.name for shard in shards(wanted[0], "train")][1:]
    for one in wanted:
        there = len(list(one.folder(tmp_path).glob("train-?????.safetensors")))
        assert there * 30 * (4 * 16 + 18) <= bound
    second.hold([3])
    first.hold([6])
    assert not first.bring()
    assert not (wanted[1].folder(tmp_path) / "train-00006.safetensors").exists()  # too far ahead
    for one in (first, second):
        one.close()


def test_rows_of_another_layer_that_cannot_be_stored_are_its_own_readers_fault(
    model_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train_tokens": 300, "window_rows": 30, "cache_gb": 60 * (4 * 16 + 18) / 1e9}
    wanted = prepared(tmp_path, *(model_config("gpt2", layer=n, **settings) for n in (1, 3)))
    stored = extraction._stored

    def broken(rows: Rows, split: Split, one: Wanted) -> Rows:
        if one is wanted[1]:
            raise BadRows("too large")
        return stored(rows, split, one)

    monkeypatch.setattr(extraction, "_stored", broken)
    first, second = Cache(wanted, tmp_path), Cache(wanted[::-1], tmp_path)
    for one in (first, second):
        one.hold([1])
    while not first.bring():
        pass
    with pytest.raises(BadRows, match="too large"):
        second.bring()
    for one in (first, second):
        one.close()


def test_a_model_computes_a_shard_again_to_the_same_bits(
    model_config: Make, tmp_path: Path
) -> None:
    settings = {"train_tokens": 300, "window_rows": 30}
    bound = 60 * (4 * 16 + 18) / 1e9
    (whole,) = prepared(tmp_path / "whole", model_config("gpt2", **settings))
    (one,) = prepared(tmp_path / "part", model_config("gpt2", **settings, cache_gb=bound))
    expected, activations = opened(tmp_path / "whole", whole), opened(tmp_path / "part", one)
    indices = torch.tensor([299, 0, 31, 150, 29])
    assert torch.equal(activations.train_rows(indices), expected.train_rows(indices))
    origins = sorted(path.name for path in one.folder(tmp_path / "part").glob("*.origins.*"))
    rows = sorted(path.name for path in one.folder(tmp_path / "part").glob("*-000??.safetensors"))
    assert [name.replace(".origins", "") for name in origins] == rows


def test_a_cache_smaller_than_two_windows_is_refused(tmp_path: Path) -> None:
    message = (
        r"activations\.cache_gb=5e-06 holds 1\.3 windows of 100 training rows, and a batch may lie "
        r"in two: raise it to 7\.6e-06, or lower activations\.window_rows=100"
    )
    with pytest.raises(BadInput, match=message):
        describe(synthetic(5e-6), tmp_path)


def test_neither_cache_nor_window_changes_a_fingerprint_that_it_does_not_act_on(
    tmp_path: Path,
) -> None:
    plain = ActivationsConfig(synthetic=SyntheticConfig(), d=8, train_tokens=TRAIN)
    before = describe(plain, tmp_path)
    assert describe(plain.model_copy(update={"window_rows": TRAIN}), tmp_path) == before
    assert describe(plain.model_copy(update={"cache_gb": 1.0}), tmp_path) == before
    windowed = describe(plain.model_copy(update={"window_rows": 100}), tmp_path)
    assert windowed.fingerprint != before.fingerprint
    assert windowed.settings["window_rows"] == 100
