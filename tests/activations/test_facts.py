import hashlib
from pathlib import Path

from sae_sweep.activations.facts import FileFacts, checksums


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
