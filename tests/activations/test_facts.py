import hashlib
import os
from pathlib import Path

import pytest

from sae_sweep.activations.facts import FileFacts, checksums
from sae_sweep.errors import BadInput
from sae_sweep.inputs import sha256


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> int:
        self.calls += 1
        return len(path.read_text())


def test_a_fact_is_computed_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path, memory, count = tmp_path / "file", tmp_path / "cache" / "facts.json", Counter()
    path.write_text("one")
    for _ in range(2):
        with FileFacts(memory, count) as facts:
            assert facts(path) == facts(path) == 3
    assert count.calls == 1
    path.write_text("three")
    with FileFacts(memory, count) as facts:
        assert facts(path) == 5
    assert count.calls == 2


def test_facts_of_two_processes_are_both_kept(tmp_path: Path) -> None:
    memory, count = tmp_path / "facts.json", Counter()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    with FileFacts(memory, count) as first:
        first(paths[0])
        with FileFacts(memory, count) as second:
            second(paths[1])
    with FileFacts(memory, count) as later:
        assert [later(path) for path in paths] == [1, 1]
    assert count.calls == 2


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    with FileFacts(tmp_path / "facts.json", Counter()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_checksums_are_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with checksums(tmp_path) as checksum:
        assert checksum(path) == hashlib.sha256(b"content").hexdigest()
    assert (tmp_path / "cache" / "checksums.json").exists()


def test_a_file_in_anothers_place_is_noticed(tmp_path: Path) -> None:
    path, memory = tmp_path / "a.npy", tmp_path / "facts.json"
    path.write_bytes(b"one")
    before = path.stat()
    with FileFacts(memory, sha256) as fact:
        first = fact(path)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (3, before.st_mtime_ns)
    with FileFacts(memory, sha256) as fact:
        assert fact(path) != first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3}', "\x00"])
def test_a_memory_that_cannot_be_read_is_empty(tmp_path: Path, content: str) -> None:
    path, memory = tmp_path / "a.npy", tmp_path / "facts.json"
    path.write_bytes(b"one")
    memory.write_text(content)
    with FileFacts(memory, sha256) as fact:
        assert fact(path) == sha256(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        FileFacts(tmp_path / "facts.json", sha256) as fact,
        pytest.raises(BadInput, match=r"a\.npy cannot be read \(No such file or directory\)"),
    ):
        fact(tmp_path / "a.npy")
