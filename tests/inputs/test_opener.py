"""The one opener of text files: what people's files look like."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sae_sweep.errors import BadInput
from sae_sweep.inputs import (
    InputFile,
    csv_rows,
    find_files,
    json_rows,
    lines,
    paragraphs,
    parquet_rows,
    text,
    whole_text,
    without_surrogates,
)

DATA = Path(__file__).parents[1] / "data" / "inputs"
KINDS = (".txt", ".jsonl", ".parquet")
anew = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


def file(path: Path) -> InputFile:
    return InputFile(path, "text=")


def texts(path: Path) -> list[str]:
    return [line for _, line in lines(file(path))]


def names(folder: Path) -> list[str]:
    return [one.path.name for one in find_files(folder, "text=", KINDS).files]


def refused(message: str, read: Callable[[], object]) -> None:
    with pytest.raises(BadInput, match=message):
        read()


@anew
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), st.booleans())
def test_lines_are_what_newlines_separate(tmp_path: Path, content: str, mark: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + content.encode())
    expected = content if mark else content.removeprefix("\ufeff")
    parts = expected.split("\n")
    ended = [part.removesuffix("\r") for part in parts[:-1]]
    assert texts(path) == [*ended, *([parts[-1].removesuffix("\r")] if parts[-1] else [])]
    assert [number for number, _ in lines(file(path))] == list(range(1, len(texts(path)) + 1))


@anew
@given(st.text(alphabet="ab \n\r\t\x0b\u0085\u2028", max_size=14))
def test_paragraphs_are_what_blank_lines_separate(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    plain = path.read_text(encoding="utf-8")
    assert [one for _, one in paragraphs(file(path))] == re.split(r"\n\s*\n", plain)
    assert whole_text(file(path)) == plain


@anew
@given(st.binary(max_size=60), st.sampled_from([".txt", ".txt.gz", ".txt.zst", ".jsonl", ".csv"]))
def test_any_bytes_are_read_or_refused_by_name(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    readers = {".jsonl": json_rows, ".csv": csv_rows}
    try:
        list(readers.get(suffix, lines)(file(path)))
    except BadInput as error:
        assert str(path) in str(error)  # noqa: PT017  (either end is right)


@pytest.mark.slow
@anew
@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), min_size=1), max_size=4),
    st.sampled_from(["", ".gz", ".zst"]),
)
def test_json_rows_come_with_their_lines(tmp_path: Path, rows: list, packed: str) -> None:
    path = tmp_path / f"A.JSONL{packed}"
    written = "".join(f"{json.dumps(row, ensure_ascii=True)}\n\n" for row in rows).encode()
    match packed:
        case ".gz":
            path.write_bytes(gzip.compress(written))
        case ".zst":
            with pa.output_stream(str(path), compression="zstd") as stream:
                stream.write(written)
        case _:
            path.write_bytes(written)
    assert file(path).kind == ".jsonl"
    assert list(json_rows(file(path))) == [(2 * i + 1, row) for i, row in enumerate(rows)]


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c\x0cd"}\n'.replace("\x0c", " "), encoding="utf-8")
    assert list(json_rows(file(path))) == [(1, {"text": "a\u2028b\u0085c d"})]


def test_a_bad_line_is_named_by_its_number() -> None:
    refused(
        r"text_bad_line_41\.jsonl line 42 cannot be read \(Unterminated .* column 10\): a \.jsonl",
        lambda: list(json_rows(file(DATA / "text_bad_line_41.jsonl"))),
    )


def test_a_byte_order_mark_is_no_text() -> None:
    rows = [row for _, row in json_rows(file(DATA / "text_bom.jsonl"))]
    assert all(list(row) == ["text"] for row in rows)


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(b"not packed at all")
    refused(rf"a\.txt{packed} cannot be read \(", lambda: texts(path))
    if packed == ".gz":
        path.write_bytes(gzip.compress(b"a\n" * 9999)[:-20])
        refused(r"a\.txt\.gz line \d+ cannot be read \(Compressed file ended", lambda: texts(path))


@pytest.mark.parametrize(
    ("damage", "reason"), [("cut", "Truncated compressed stream"), ("zeros", "ZSTD decompress")]
)
def test_a_zst_file_that_is_damaged_in_its_midst_is_refused_with_the_line(
    tmp_path: Path, damage: str, reason: str
) -> None:
    path = tmp_path / "a.jsonl.zst"
    draw = random.Random(0)
    with pa.output_stream(str(path), compression="zstd") as stream:
        for _ in range(20_000):
            stream.write(b'{"text": "%d"}\n' % draw.getrandbits(200))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + (b"" if damage == "cut" else bytes(64) + whole[half + 64 :]))
    read = []
    message = rf"a\.jsonl\.zst line \d+ cannot be read \({reason}.*\): it has to be \.jsonl"
    refused(message, lambda: read.extend(number for number, _ in json_rows(file(path))))
    assert 1000 < len(read) < 19_000


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "LONGEST", 2**20)
    path = tmp_path / "a.txt"
    path.write_text("short\n" + "a" * (2**20 + 1))
    refused(r"a\.txt line 2 is longer than 1 MiB: break it", lambda: texts(path))
    refused(r"a\.txt line 2 is longer than 1 MiB", lambda: list(paragraphs(file(path))))
    refused(r"a\.txt holds more than 1 MiB: split it", lambda: whole_text(file(path)))
    path.write_text("ab\n" * 2**20)
    message = r"a\.txt: the paragraph at line 1 is longer than 1 MiB: put blank lines"
    refused(message, lambda: list(paragraphs(file(path))))


def test_a_small_parquet_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "repeats.parquet"
    parquet.write_table(pa.table({"text": ["a" * 2**20] * 300}), path, compression="zstd")
    assert path.stat().st_size < 2000
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from sae_sweep.inputs import InputFile, parquet_rows, parquet_columns\n"
        "file = InputFile(Path(sys.argv[1]), ''); parquet_columns(file)\n"
        "most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(sum(len(row['text']) for _, row in parquet_rows(file)) >> 20)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    characters, megabytes = map(int, done.stdout.split())
    assert characters == 300
    assert megabytes < 64


def test_a_parquet_file_made_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * 2**27]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    message = r"a\.parquet: [\d,]+ bytes of column text unpack to 134,217,\d+: write the file again"
    refused(message, lambda: list(parquet_rows(file(path))))


def test_rows_of_a_parquet_file_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"text": f"text {i % 7}", "n": i} for i in range(3000)]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000)
    assert list(parquet_rows(file(path))) == [(i + 1, row) for i, row in enumerate(rows)]


def test_hidden_files_and_links_to_siblings_are_skipped(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.touch()
    folder = tmp_path / "texts"
    (folder / "nested" / "deep").mkdir(parents=True)
    for name in ("b.txt", "A.TXT", "nested/c.jsonl.gz", "nested/deep/d.txt", "e.csv"):
        (folder / name).touch()
    for name in ("._b.txt", ".hidden/x.txt", ".ipynb_checkpoints/b.txt", "__MACOSX/b.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "latest.txt").symlink_to("b.txt")
    (folder / "again").symlink_to("nested")
    (folder / "nested" / "up").symlink_to("..")
    (folder / "linked.txt").symlink_to(outside)
    assert names(folder) == ["A.TXT", "b.txt", "linked.txt", "c.jsonl.gz", "d.txt"]
    found = find_files(folder, "text=", KINDS)
    assert {one.name for one in found.skipped} >= {"._b.txt", ".hidden", "latest.txt", "again"}
    assert [one.name for one in found.others] == ["e.csv"]


def test_what_is_no_readable_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.txt").mkdir()
    refused(r"text=.*old\.txt is a folder, not a file: remove or rename", lambda: names(tmp_path))
    (tmp_path / "old.txt").rmdir()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "no such file")
    refused(r"gone\.txt cannot be read \(No such file or directory\)", lambda: names(tmp_path))
    (tmp_path / "gone.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    refused(r"pipe\.txt is a pipe, socket or device", lambda: names(tmp_path))
    (tmp_path / "pipe.txt").unlink()
    (tmp_path / "a.parquet.gz").touch()
    refused(r"a\.parquet\.gz is compressed: unpack it", lambda: names(tmp_path))
    (tmp_path / "a.parquet.gz").unlink()
    (tmp_path / "secret.txt").touch()

    def deny(path: Path, *_: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    refused(r"secret\.txt cannot be read \(Permission denied\): check", lambda: names(tmp_path))
    monkeypatch.setattr(Path, "iterdir", deny)
    refused(rf"text={tmp_path} cannot be read \(Permission denied\)", lambda: names(tmp_path))


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,lr\n", encoding="utf-16")
    refused(r"a\.csv is UTF-16: save it in UTF-8, e\.g\. iconv -f UTF-16", lambda: texts(path))


@given(st.text(st.characters(exclude_categories=[]), max_size=9))
def test_no_half_of_a_surrogate_pair_is_left(written: str) -> None:
    whole = without_surrogates(written)
    whole.encode()
    assert len(whole) == len(written)
