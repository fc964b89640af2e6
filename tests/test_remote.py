"""Remote outputs: a folder is published as a whole or is not there."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, S3, serving

from sae_sweep import remote
from sae_sweep.cli.main import main
from sae_sweep.errors import BadInput, CutShort
from sae_sweep.remote import INDEX, Remote, fetch, local_folder, remote_of, require_url

Machine = Callable[[str], Remote]


@pytest.fixture
def s3(monkeypatch) -> Iterator[S3]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def machine(request, tmp_path, monkeypatch) -> Machine:
    """Gives the mirror of a machine by its name; all mirror the same outputs."""
    url = f"file://{tmp_path}/there"
    if request.param == "s3":
        request.getfixturevalue("s3")
        url = f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def of(name: str) -> Remote:
        monkeypatch.setenv(remote.VARIABLE, str(tmp_path / name))
        found = remote_of(local_folder(url))
        assert found is not None
        assert found.url == url
        return found

    return of


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }


def test_what_one_machine_publishes_another_fetches(machine) -> None:
    ours, theirs = machine("a"), machine("b")
    write(ours.mirror / "trials" / "t", weights="w", figures__one="1", **{".new.part": "half"})
    ours.publish("trials/t")
    assert fetch(theirs.mirror, "trials/t") == theirs.mirror / "trials" / "t"
    assert read(theirs.mirror / "trials" / "t") == {"weights": "w", "figures/one": "1"}
    write(ours.mirror / "trials" / "t", weights="v")
    ours.publish("trials/t")
    theirs.fetch("trials/t")
    assert read(theirs.mirror / "trials" / "t")["weights"] == "v"
    ours.drop("trials/t", "weights")
    theirs.fetch("trials/t")
    assert read(ours.mirror / "trials" / "t") == {"figures/one": "1", ".new.part": "half"}
    ours.remove("trials/t")
    assert ours.names("trials/t") == set()
    assert theirs.index("trials/t") is None
    ours.remove("trials/t")


def test_only_what_is_new_is_uploaded_or_downloaded(machine, monkeypatch) -> None:
    ours, theirs = machine("a"), machine("b")
    write(ours.mirror / "x", one="1", two="2")
    ours.publish("x")
    theirs.fetch("x")
    moved: list[str] = []
    monkeypatch.setattr(Remote, "put", _noting(moved, Remote.put))
    monkeypatch.setattr(Remote, "get", _noting(moved, Remote.get))
    ours.publish("x")
    theirs.fetch("x")
    assert moved == []
    write(ours.mirror / "x", two="3")
    ours.publish("x")
    assert len(moved) == 2  # and the index
    (theirs.mirror / "x" / "one").unlink()
    theirs.fetch("x")
    assert read(theirs.mirror / "x") == {"one": "1", "two": "3"}


def _noting(moved: list[str], method):
    def noted(self, *words):
        moved.append(str(words))
        return method(self, *words)

    return noted


@pytest.mark.parametrize("survivors", [0, 2])
def test_a_killed_upload_leaves_nothing_that_a_reader_sees(machine, monkeypatch, survivors) -> None:
    ours, theirs = machine("a"), machine("b")
    write(ours.mirror / "x", one="1", two="2")
    whole, sent = Remote.put, []

    def killed(self, path, name):
        if len(sent) == survivors:
            raise KeyboardInterrupt
        sent.append(name)
        whole(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            ours.publish("x")
    assert len(ours.names("x")) == survivors
    theirs.fetch("x")
    assert not (theirs.mirror / "x").exists()
    ours.publish("x")
    theirs.fetch("x")
    assert read(theirs.mirror / "x") == {"one": "1", "two": "2"}


def test_a_file_is_in_place_only_when_it_is_complete(tmp_path, monkeypatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    there = Remote(f"file://{tmp_path}/there", tmp_path / "mirror")
    write(tmp_path, one="1")
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "mv", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            there.put(tmp_path / "one", "x/one")
    assert not (tmp_path / "there" / "x" / "one").exists()
    there.put(tmp_path / "one", "x/one")
    assert (tmp_path / "there" / "x" / "one").read_text() == "1"


@pytest.mark.parametrize("steps", [0, 1, None])
def test_results_are_moved_into_place_even_if_the_first_move_was_killed(
    machine, monkeypatch, steps
) -> None:
    ours, theirs = machine("a"), machine("b")
    write(ours.mirror / "t" / "claim-1", config="c", latents="l", weights="w")
    ours.publish("t/claim-1")
    if steps is not None:
        path, left = Remote._path, [steps]

        def killed(self, name):
            if "claim-1/" not in name and INDEX not in name:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return path(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Remote, "_path", killed)
            with pytest.raises(KeyboardInterrupt):
                ours.move("t/claim-1", "t", ["weights"])
    ours.move("t/claim-1", "t", ["weights"])
    theirs.fetch("t")
    assert read(theirs.mirror / "t") == {"config": "c", "latents": "l"}
    assert ours.names("t") == {"config", "latents", INDEX}
    ours.move("t/claim-1", "t", ["weights"])  # nothing is left to do
    assert ours.names("t") == {"config", "latents", INDEX}


def test_another_file_than_the_one_that_was_written_is_refused(machine, tmp_path) -> None:
    ours, theirs = machine("a"), machine("b")
    write(ours.mirror / "x", one="1")
    ours.publish("x")
    write(tmp_path, other="2")
    ours.put(tmp_path / "other", "x/one")
    with pytest.raises(BadInput, match=rf"x/one has another checksum .*: delete {ours.url}/x and"):
        theirs.fetch("x")
    assert read(theirs.mirror / "x") == {}


@pytest.mark.parametrize(
    "text", ["{", '{"../one": {"size": 1, "sha256": ""}}', '{"/one": {}}', '{"one": {}}']
)
def test_a_damaged_index_is_one_message_and_leads_out_of_no_folder(tmp_path, text) -> None:
    ours = Remote(f"file://{tmp_path}/there", tmp_path / "mirror")
    write(tmp_path, index=text)
    ours.put(tmp_path / "index", f"x/{INDEX}")
    with pytest.raises(BadInput, match=rf"x/{INDEX} is damaged \(.*\): delete {ours.url}/x and"):
        ours.fetch("x")
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
def test_processes_of_one_machine_download_once(machine, tmp_path) -> None:
    ours = machine("a")
    write(ours.mirror / "x", **{f"f{n}": str(n) for n in range(8)})
    ours.publish("x")
    theirs = machine("b")
    code = f"""
import sys
from pathlib import Path
from sae_sweep.remote import fetch
print(sorted(p.name for p in fetch(Path({str(theirs.mirror)!r}), "x").iterdir()))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {one.communicate(timeout=100)[0] for one in running}
    assert said == {f"{[*(f'f{n}' for n in range(8)), INDEX]}\n"}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ("s4://bucket/x", r"outputs=s4://bucket/x: s4:// is not supported: use s3://BUCKET/FOLDER"),
        ("s3://", r"outputs=s3:// names no folder: use s3://BUCKET/FOLDER"),
        ("file://here", r"outputs=file://here names no folder: .*file:///FOLDER"),
        ("file:///", r"outputs=file:/// names no folder"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(outputs, words) -> None:
    with pytest.raises(BadInput, match=words):
        require_url(outputs)


def test_a_missing_package_names_the_extra(monkeypatch) -> None:
    monkeypatch.setattr(remote, "find_spec", lambda name: None)
    require_url("outputs")
    with pytest.raises(
        BadInput, match=r"needs the package s3fs.*pip install 'sae-sweep\[remote\]'"
    ):
        require_url("s3://bucket/x")
    with pytest.raises(BadInput, match=r"gs://bucket/x needs the package gcsfs, which"):
        require_url("gs://bucket/x")


def test_rights_that_lack_are_one_message(s3, tmp_path) -> None:
    there = Remote(f"s3://{BUCKET}/x", tmp_path)
    there.require_rights()
    assert s3.objects() == set()
    nowhere = Remote("s3://no-such-bucket/x", tmp_path)
    words = r"outputs=s3://no-such-bucket/x cannot be used \(.*bucket does not exist.*\): check its"
    with pytest.raises(BadInput, match=words):
        nowhere.require_rights()
    for method in ("PUT", "GET", "DELETE"):
        s3.refuses = lambda asked, path, method=method: asked == method
        words = rf"^outputs=s3://{BUCKET}/x cannot be used \(.*\): check its name, and the cred"
        with pytest.raises(BadInput, match=words) as caught:
            there.require_rights()
        assert not isinstance(caught.value, CutShort)
        assert re.search("Denied|Forbidden", str(caught.value))


def test_rights_that_are_lost_on_the_way_can_be_mended(s3, tmp_path) -> None:
    there = Remote(f"s3://{BUCKET}/x", tmp_path)
    write(tmp_path, one="1")
    s3.refuses = lambda method, path: method == "PUT"
    words = rf"outputs=s3://{BUCKET}/x cannot be written \(.*\): check the network, the bucket"
    with pytest.raises(CutShort, match=words):
        there.put(tmp_path / "one", "one")


@pytest.mark.slow
def test_a_plain_folder_is_its_own_and_loads_no_fsspec(tmp_path) -> None:
    code = f"""
import sys
from pathlib import Path
from sae_sweep.remote import fetch, local_folder, remote_of
outputs = local_folder({str(tmp_path)!r})
assert outputs == Path({str(tmp_path)!r})
assert remote_of(outputs) is None
assert fetch(outputs, "trials/t") == outputs / "trials" / "t"
import sae_sweep.cli.run, sae_sweep.tune.slot, analysis.report
assert not {{"s3fs", "gcsfs"}} & set(sys.modules)
for name in ("fsspec", "s3fs", "gcsfs"):
    sys.modules[name] = None  # importing it raises
from sae_sweep.cli.main import main
words = ["+sweep=smoke", "executor=inline", "outputs={tmp_path}", "sae.k=[4]"]
words += ["activations.train_tokens=1024", "activations.validation_tokens=256"]
assert main(words) == 0
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (
        json.loads(next((tmp_path / "trials").glob("*/config.json")).read_text())["sae"]["k"] == 4
    )
    assert list(tmp_path.rglob(INDEX)) == []


def test_commands_ask_for_the_store_of_remote_outputs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path / "mirrors"))
    monkeypatch.delenv("SAE_SWEEP_STORE", raising=False)
    assert main(["status", "--outputs", f"file://{tmp_path}/x"]) == 2
    words = f"--outputs file://{tmp_path}/x holds no store: name its PostgreSQL with --store or"
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--outputs", "s4://bucket/x"])
    assert "--outputs: outputs=s4://bucket/x: s4:// is not supported" in capsys.readouterr().err
