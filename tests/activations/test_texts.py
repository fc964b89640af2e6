import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sae_sweep.activations import texts
from sae_sweep.activations.groups import NO_GROUP
from sae_sweep.activations.split import shuffled
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import sha256

DATA = Path(__file__).parents[1] / "data" / "inputs"
ROWS = [
    {"text": "one", "body": "eins", "language": "de"},
    {"text": "two", "body": "zwei", "language": "en"},
    {"text": None, "body": "drei", "language": "de"},
]


def config(text: Path | str, **changes: Any) -> ActivationsConfig:
    return ActivationsConfig(model="m", layer=0, text=str(text), **changes)


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def identity(text: Path | str, **changes: Any) -> tuple[dict[str, Any], Any]:
    return texts.identify(config(text, **changes), sha256)


def refused(message: str, text: Path | str, **changes: Any) -> None:
    with pytest.raises(BadInput, match=message):
        identity(text, **changes)


@pytest.mark.slow
def test_python_docs_holds_topics_and_docstrings_of_modules_classes_and_functions() -> None:
    import argparse
    import inspect
    from pydoc_data.topics import topics

    found = texts.read(config("python-docs"))
    documents = set(found.documents)
    assert documents >= set(topics.values())
    things = (argparse, argparse.ArgumentParser, argparse.ArgumentParser.add_argument_group)
    assert documents >= {inspect.getdoc(thing) for thing in things if thing.__doc__}
    assert len(found.documents) > 3000
    assert all(found.documents)
    assert found.group_names == ["all"]
    assert set(found.groups) == {0}


def test_python_docs_is_identified_by_the_files_it_is_read_from() -> None:
    settings, content = identity("python-docs")
    assert settings == {"text": "python-docs"}
    assert len(content) > 100


def test_a_text_file_holds_a_document_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\nstill first\n\n \nsecond\n", encoding="utf-8")
    assert list(texts.read(config(path)).documents) == ["first\nstill first", "second\n"]
    assert identity(path) == ({"text": str(path)}, [[".txt", sha256(path)]])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_table_holds_a_document_a_row(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}")
    assert list(texts.read(config(path)).documents) == ["one", "two", ""]
    grouped = texts.read(config(path, text_column="body", group="language"))
    assert list(grouped.documents) == ["eins", "zwei", "drei"]
    assert [grouped.group_names[group] for group in grouped.groups] == ["de", "en", "de"]
    settings, _ = identity(path, text_column="body", group="language")
    assert settings == {"text": str(path), "text_column": "body", "group": "language"}


def test_a_folder_holds_its_files_by_name_and_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\ndocument")
    write(tmp_path / "a.jsonl")
    (tmp_path / "c.md").write_text("no text format of ours")
    assert list(texts.read(config(tmp_path)).documents) == ["one", "two", "", "one\n\ndocument"]
    assert len(identity(tmp_path)[1]) == 2


def test_a_renamed_text_is_the_same_and_a_changed_one_is_not(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for path, text in zip(paths, ("same", "same", "other"), strict=True):
        path.write_text(text)
    one, renamed, changed = (identity(path)[1] for path in paths)
    assert one == renamed != changed


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n \n")
    refused(rf"activations\.text={path} is empty: give a file with text", path)


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    refused(
        rf"activations\.text={tmp_path}: no \.txt, \.md, \.jsonl, \.parquet file there", tmp_path
    )
    (tmp_path / "a.csv").touch()
    refused(r"no \.txt, .* file there, plain .* as \.gz or \.zst; there is a\.csv", tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(r"activations\.text=.*/no\.txt: no such file: check the path", tmp_path / "no.txt")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_missing_column_is_refused_with_those_that_exist(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}")
    message = r"activations\.{}=no: .*a{}.* has no such column; it has text, body, language"
    refused(message.format("text_column", suffix), path, text_column="no")
    refused(message.format("group", suffix), path, group="no")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_numbers_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [{"text": 3}])
    refused(r"activations\.text_column=text of .*a\S+.* holds 3: choose a column of text", path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\xff\xfe")
    refused(rf"activations\.text={path} is UTF-16: save it in UTF-8, e\.g\. iconv", path)
    path.write_bytes(b'{"text": "a"}\n\xe9\n')
    with pytest.raises(BadInput, match=rf"{path} line 2 is not UTF-8 \(byte 0xe9 at 1\): save it"):
        texts.read(config(path))


def test_a_line_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{")
    refused(rf"{path} line 1 cannot be read \(Expecting .*\): a \.jsonl file holds one JSON", path)
    path.write_text("[1]")
    refused(r"a\.jsonl line 1 has no such column; it has none", path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("no parquet")
    refused(rf"activations\.text={path} cannot be read \(.*\): write the file again", path)


def test_a_group_column_needs_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    message = r"activations\.group=language: activations\.text={} has no columns: use \.jsonl"
    refused(message.format(path), path, group="language")
    refused(message.format("python-docs"), "python-docs", group="language")


def test_a_data_set_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(
        r"activations\.text=owner/name is no file here.*pip install sae-sweep\[datasets\]",
        "owner/name",
    )


class DataSet:
    """What is used of a data set of the package `datasets`."""

    def __init__(self, file: Path, rows: list[dict[str, Any]]) -> None:
        self.cache_files = [{"filename": str(file)}]
        self.column_names = ["text", "body", "language"]
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> list[Any]:
        return [row[column] for row in self._rows]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """Put a stand-in for the package `datasets`; gives the names and splits asked for."""
    file, asked = tmp_path / "cached.arrow", []
    file.write_bytes(b"rows")

    def load_dataset(name: str, split: str, streaming: bool = False) -> Any:
        asked.append((name, split, streaming))
        if streaming and name == "torn":
            return Torn()
        if name == "unknown":
            raise FileNotFoundError("no such data set")
        return DataSet(file, [] if name == "empty" else ROWS)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_is_read_by_name(data_set: list[tuple[str, str, bool]]) -> None:
    settings, content = identity("owner/name", text_split="test", group="language")
    assert settings == {
        "text": "owner/name",
        "text_column": "text",
        "text_split": "test",
        "group": "language",
    }
    assert [suffix for suffix, _ in content] == [".arrow"]
    found = texts.read(config("owner/name", text_column="body", group="language"))
    assert list(found.documents) == ["eins", "zwei", "drei"]
    assert [found.group_names[group] for group in found.groups] == ["de", "en", "de"]
    assert texts.read(config("owner/name")).group_names == ["all"]
    assert data_set[0] == ("owner/name", "test", False)


class Torn:
    """A stream that breaks off."""

    column_names = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"text": "one"}
        raise ConnectionError("the server has gone")


def test_a_data_set_is_streamed_in_a_running_shuffle(
    data_set: list[tuple[str, str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {"owner/name": "abc1"}
    monkeypatch.setattr(
        "huggingface_hub.dataset_info", lambda name: SimpleNamespace(sha=commits[name])
    )
    settings, content = identity("owner/name", text_streaming=True, text_column="body")
    assert settings["shuffle_buffer"] == 10_000
    assert content == ["streamed", "abc1"]
    assert all(streaming for _, _, streaming in data_set)
    chosen = config("owner/name", text_streaming=True, text_column="body", group="language")
    found = texts.in_order(chosen)
    assert sorted(found.documents) == [(0, "eins"), (1, "zwei"), (2, "drei")]
    groups, names = found.groups()
    assert [names[group] for group in groups] == ["de", "en", "de"]
    refused("no commit that can be asked for .*check the name", "other/name", text_streaming=True)
    with pytest.raises(BadInput, match=r"torn row 1 cannot be read further \(the server has gone"):
        list(texts.in_order(config("torn", text_streaming=True)).documents)
    refused("only a data set is streamed", "python-docs", text_streaming=True)


def test_a_data_set_that_cannot_be_used_is_refused(data_set: list[tuple[str, str, bool]]) -> None:
    refused(r"activations\.text=unknown with .*_split=train cannot be loaded \(no such", "unknown")
    refused(r"activations\.text=empty is empty: give another data set", "empty")
    refused(r"activations\.text_column=no: the data set a has no such", "a", text_column="no")


def test_documents_of_a_text_may_be_lines_or_files(tmp_path: Path) -> None:
    def found(text: Path, split_by: str | None = None) -> list[str]:
        return list(texts.read(config(text, text_split_by=split_by)).documents)

    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    assert found(path) == ["one\ntwo", "three\n"]
    assert found(path, "line") == ["one", "two", "three"]
    assert found(path, "file") == ["one\ntwo\n\nthree\n"]
    assert found(tmp_path, "line") == ["one", "two", "three"]
    assert identity(path, text_split_by="line")[0] == {"text": str(path), "text_split_by": "line"}


def test_a_null_group_is_a_group_of_its_own() -> None:
    found = texts.read(config(DATA / "text_null_group.jsonl", group="lang"))
    assert NO_GROUP in found.group_names
    written = (DATA / "text_null_group.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in written]
    for row, group in zip(rows, found.groups, strict=True):
        assert found.group_names[group] == (row["lang"] or NO_GROUP)


@pytest.mark.parametrize(("one", "other"), [(1, "1"), (True, "True"), (None, NO_GROUP)])
def test_groups_that_only_their_kind_tells_apart_are_refused(
    tmp_path: Path, one: object, other: object
) -> None:
    rows = [{"text": "a", "lang": value} for value in (one, other)]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(BadInput, match=r"group=lang of .*a\.jsonl line 2 holds '.*rename one"):
        texts.read(config(path, group="lang"))
    path = write(tmp_path / "b.jsonl", [{"text": "a", "lang": ["de"]}])
    with pytest.raises(BadInput, match=r"b\.jsonl line 1 holds list \['de'\]: choose a column"):
        texts.read(config(path, group="lang"))


def test_halves_of_surrogate_pairs_are_replaced_and_said(capsys: Any) -> None:
    path = DATA / "text_lone_surrogate.jsonl"
    documents = list(texts.read(config(path)).documents)
    assert sum("\N{REPLACEMENT CHARACTER}" in one for one in documents) == 1
    assert "1 documents, first in" in capsys.readouterr().err


def test_a_description_beside_data_is_left_out_and_said(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "README.md").write_text("about the data")
    assert list(texts.read(config(tmp_path)).documents) == ["about the data"]
    write(tmp_path / "a.jsonl")
    assert list(texts.read(config(tmp_path)).documents) == ["one", "two", ""]
    assert "descriptions left out, e.g." in capsys.readouterr().err


def test_a_running_shuffle_yields_every_document_once_and_holds_few(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    rows = [
        json.dumps({"text": f"word {number}", "set": "ab"[number % 2]}) for number in range(500)
    ]
    path.write_text("\n".join(rows))
    config = ActivationsConfig(model="-", layer=0, text=str(path), shuffle_buffer=50, group="set")
    source = texts.in_order(config)
    first = [next(source.documents) for _ in range(20)]
    groups, names = source.groups()
    assert len(groups) == 70  # what has been read: no document further
    taken = [*first, *source.documents]
    assert sorted(number for number, _ in taken) == list(range(500))
    assert all(text == f"word {number}" for number, text in taken)
    assert [number for number, _ in taken] != list(range(500))
    assert taken == list(texts.in_order(config).documents)
    groups, names = source.groups()
    assert [names[one] for one in groups] == ["ab"[number % 2] for number in range(500)]


def test_texts_of_a_spool_are_read_back_in_any_order_and_leave_no_file(tmp_path: Path) -> None:
    written = ["one", "", "zwei \N{PILE OF POO}", "half \ud83d", "a\r\nb\0"]
    spool = texts.Spool(iter(written), tmp_path)
    assert [spool[number] for number in (4, 0, 3, 1, 2)] == [written[i] for i in (4, 0, 3, 1, 2)]
    assert list(spool) == written
    assert list(tmp_path.iterdir()) == []


def test_a_local_text_is_shuffled_as_a_whole_and_its_groups_are_sorted(tmp_path: Path) -> None:
    rows = [{"text": f"word {number}", "set": "cab"[number % 3]} for number in range(50)]
    chosen = config(write(tmp_path / "a.jsonl", rows), group="set")
    source = texts.in_order(chosen, tmp_path)
    assert list(source.documents) == [(one, f"word {one}") for one in shuffled(50).tolist()]
    groups, names = source.groups()
    assert names == ["a", "b", "c"]
    assert [names[one] for one in groups] == ["cab"[number % 3] for number in range(50)]


@pytest.mark.slow
def test_documents_of_a_local_text_are_never_all_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"{number} {'word ' * 2000}" for number in range(5000)))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from sae_sweep.activations import texts; from sae_sweep.config import ActivationsConfig\n"
        "config = ActivationsConfig(model='m', layer=0, text=sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(sum(1 for _ in texts.in_order(config, Path(sys.argv[1]).parent).documents))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    documents, megabytes = map(int, done.stdout.split())
    assert documents == 5000
    assert megabytes < 25  # of a text of 50
