import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sae_sweep.disk import make_once, remove_abandoned, replacing, require_space
from sae_sweep.errors import BadInput


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    old, fresh, other = (tmp_path / name for name in (".a.1.part", ".b.2.part", "c"))
    for path in (old, fresh, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == [fresh, other]


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_a_clock_of_ones_own_does_not_make_a_file_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    (tmp_path / ".a.1.part").touch()
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + skew)
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".a.1.part"]


def test_a_disk_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def disk_usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=2_000_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    folder = tmp_path / "not" / "there"
    require_space(folder, 2_000_000)
    message = f"activations need 3 MB in {folder}, where 2 MB are free: .* set outputs=DIR"
    with pytest.raises(BadInput, match=message):
        require_space(folder, 3_000_000)
    assert asked == [tmp_path, tmp_path]


def test_what_several_want_is_made_once(tmp_path: Path) -> None:
    path, made = tmp_path / "made", []

    def make() -> None:
        time.sleep(0.05)
        made.append(path)
        path.touch()

    threads = [
        threading.Thread(target=make_once, args=(path, tmp_path / "locks" / "made", make))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert made == [path]
