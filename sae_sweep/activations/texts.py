"""Documents to run a model over.

`activations.text` is one of:

- `python-docs`: the language's help topics and the docstrings of the standard library's top-level
  modules, which every Python carries;
- a file: .txt or .md (a document is a paragraph; blank lines separate; `text_split_by` says
  otherwise), .jsonl or .parquet (a document is a row, its text in `text_column`), all but the last
  also as .gz or .zst;
- a folder of such files, in the order of their paths, where a .txt file is one document;
- else the name of a data set for the package `datasets`.
"""

import ast
import os
import random
import sys
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16

from sae_sweep.activations.groups import (
    MOST_GROUPS,
    ONE_GROUP,
    GroupNames,
    number_groups,
    too_many_groups,
)
from sae_sweep.activations.split import shuffled
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import (
    Found,
    InputFile,
    Place,
    edge,
    find_files,
    json_rows,
    lines,
    note,
    paragraphs,
    parquet_columns,
    parquet_rows,
    whole_kind,
    whole_text,
    without_surrogates,
)

PYTHON_DOCS = "python-docs"
PROSE = (".txt", ".md")
KINDS = (*PROSE, ".jsonl", ".parquet")
GIVEN_AS = "activations.text="
NO_HUB = "check the name and the network, or give a local file (.jsonl, .parquet) or a folder"

ENCODING = ("utf-8", "surrogatepass")

Record = tuple[str, str]
"""A document's text and the name of its group."""


class Texts(NamedTuple):
    """All documents of a source; some may be empty."""

    documents: "Spool | Sequence[str]"
    groups: Int16[np.ndarray, " documents"]
    group_names: list[str]


class Spool:
    """Texts in a file without a name, which is gone with the process; in memory are its offsets."""

    def __init__(self, texts: Iterable[str], folder: Path | None) -> None:
        """Write the texts.

        Args:
            texts: any number of them, one in memory at a time.
            folder: where there is room for them; the system's for temporary files where None.
        """
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open as long as this is)
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])
        for text in texts:
            self._ends.append(self._ends[-1] + self._file.write(text.encode(*ENCODING)))
        self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number : number + 2]
        return os.pread(self._file.fileno(), end - start, start).decode(*ENCODING)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


def identify(
    config: ActivationsConfig, checksum: Callable[[Path], str]
) -> tuple[dict[str, Any], Any]:
    """The settings that act on the text, and its checksums.

    Raises:
        BadInput: for a text that is missing, empty or cannot be read.
    """
    settings: dict[str, Any] = {"text": config.text}
    if config.buffer is not None:
        settings["shuffle_buffer"] = config.buffer
    _refuse_streaming(config)
    if config.text == PYTHON_DOCS:
        _refuse_group(config)
        topics = Path(str(import_module("pydoc_data.topics").__file__))
        python_files = [topics, *_standard_library()]
        return settings, [[path.suffix, checksum(path)] for path in python_files]
    if os.path.lexists(config.text):
        files = text_files(config)
        if not any(text.strip() for text, _ in documents(config)):
            raise BadInput(f"activations.text={config.text} is empty: give a file with text")
        columns = any(file.kind not in PROSE for file in files)
        if config.text_split_by is not None and not columns:
            settings["text_split_by"] = config.text_split_by
        content = [[f"{one.kind}{one.compression or ''}", checksum(one.path)] for one in files]
    else:
        columns, settings["text_split"] = True, config.text_split
        content = _content_of_dataset(config, checksum)
    if columns:
        settings["text_column"] = config.text_column
    if config.group is not None:
        settings["group"] = config.group
    return settings, content


def read(config: ActivationsConfig, folder: Path | None = None) -> Texts:
    """Read all documents; their texts stay on disk until they are asked for.

    Args:
        config: names the text.
        folder: where a copy of a local text lies while it is in use; see `Spool`.
    """
    if _is_local(config):
        labels = _Labels(config)
        spool = Spool((labels.noted(one) for one in documents(config)), folder)
        numbers, group_names = number_groups(labels.numbers, config)
        return Texts(spool, numbers[labels.groups], group_names)
    dataset = _dataset(config)
    if config.group is None:
        return Texts(dataset[config.text_column], np.zeros(len(dataset), np.int16), ONE_GROUP)
    names = GroupNames(config)
    place = Place(f"the data set {config.text}", "row")
    rows = (names.label(value, place) for value in dataset[config.group])
    return Texts(dataset[config.text_column], *number_groups(rows, config))


class Ordered(NamedTuple):
    """Documents as they are taken, with their numbers in the text, and what is known of groups."""

    documents: Iterator[tuple[int, str]]
    groups: Callable[[], tuple[Int16[np.ndarray, " documents"], list[str]]]
    """Of all documents up to the last one taken, by number."""


def in_order(config: ActivationsConfig, folder: Path | None = None) -> Ordered:
    """Take documents in shuffled order: of the whole text, or of as many as a buffer holds.

    With a buffer each document that comes takes the place of a random one in the buffer,
    which is yielded: a text of any length is read once, and no more than that is in memory.

    Args:
        config: names the text.
        folder: where a copy of a local text lies that is shuffled as a whole; see `Spool`.
    """
    if config.buffer is None:
        texts = read(config, folder)
        order = map(int, shuffled(len(texts.documents)))
        whole = ((number, texts.documents[number] or "") for number in order)
        return Ordered(whole, lambda: (texts.groups, texts.group_names))
    labels = _Labels(config)
    noted = (labels.noted(one) for one in documents(config))
    taken = _through_buffer(enumerate(noted), config.buffer)
    return Ordered(taken, lambda: (labels.groups, list(labels.numbers) or ONE_GROUP))


class _Labels:
    """Groups of documents as they are read, numbered as they first come."""

    def __init__(self, config: ActivationsConfig) -> None:
        self._config = config
        self._groups = array("h")
        self.numbers: dict[str, int] = {}

    @property
    def groups(self) -> Int16[np.ndarray, " documents"]:
        """Of every document so far."""
        return np.array(self._groups, dtype=np.int16)

    def noted(self, document: Record) -> str:
        """Note a document's group; gives its text.

        Raises:
            BadInput: for more groups than shards can hold.
        """
        text, group = document
        self._groups.append(self.numbers.setdefault(group, len(self.numbers)))
        if len(self.numbers) > MOST_GROUPS:
            raise too_many_groups(len(self.numbers), self._config)
        return text


def _through_buffer(documents: Iterator[tuple[int, str]], size: int) -> Iterator[tuple[int, str]]:
    draw = random.Random(0)
    held: list[tuple[int, str]] = []
    for document in documents:
        if len(held) < size:
            held.append(document)
            continue
        place = draw.randrange(size)
        yield held[place]
        held[place] = document
    draw.shuffle(held)
    yield from held


def documents(config: ActivationsConfig) -> Iterator[Record]:
    """Yield the documents of a text in the order of its files, one in memory at a time.

    Raises:
        BadInput: with file and line or row, for what cannot be read.
    """
    if config.text == PYTHON_DOCS:
        _refuse_group(config)
        yield from ((text, ONE_GROUP[0]) for text in _python_docs())
        return
    if not _is_local(config):
        yield from _of_dataset(config)
        return
    split_by = config.text_split_by or ("file" if Path(config.text).is_dir() else "paragraph")
    names, halves, first = GroupNames(config), 0, ""
    for file in text_files(config):
        for text, group in _records(file, config, split_by, names):
            whole = without_surrogates(text)
            if whole != text:
                halves, first = halves + 1, first or str(file.path)
            yield whole, group
    if halves:
        note(
            f"activations.text={config.text}: {halves} documents, first in {first}, hold halves of "
            "surrogate pairs, which are no characters: read as U+FFFD"
        )


def _is_local(config: ActivationsConfig) -> bool:
    return config.text == PYTHON_DOCS or os.path.lexists(config.text)


def text_files(config: ActivationsConfig) -> list[InputFile]:
    """The files of a local text, in the order in which they are read.

    Raises:
        BadInput: when there is none, or one cannot be read.
    """
    found = find_files(Path(config.text), GIVEN_AS, KINDS)
    files = [file for file in found.files if file.kind != ".md"]
    if not files:
        files = found.files  # else a .md beside data is its description
    if not files:
        raise BadInput(
            f"activations.text={config.text}: no {', '.join(KINDS)} file there, plain or (but for "
            f".parquet) as .gz or .zst{_others(found)}"
        )
    left_out = [*found.skipped, *(one.path for one in found.files if one not in files)]
    if left_out:
        note(
            f"activations.text={config.text}: {len(left_out)} hidden files, links to what is "
            f"there anyway and descriptions left out, e.g. {left_out[0]}"
        )
    return files


def _others(found: Found) -> str:
    return f"; there is {', '.join(one.name for one in found.others[:3])}" if found.others else ""


def _standard_library() -> list[Path]:
    folder = Path(os.__file__).parent
    paths = [folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)]
    return [path for path in paths if path.exists()]


def _python_docs() -> Iterator[str]:
    topics = import_module("pydoc_data.topics").topics
    yield from (topics[name] for name in sorted(topics))
    for path in _standard_library():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring


def _refuse_streaming(config: ActivationsConfig) -> None:
    if config.text_streaming and _is_local(config):
        raise BadInput(
            f"activations.text_streaming=true with activations.text={config.text}: only a data set "
            "is streamed; local texts are read as they go with activations.shuffle_buffer=10000"
        )


def _refuse_group(config: ActivationsConfig) -> None:
    if config.group is not None:
        raise BadInput(
            f"activations.group={config.group}: activations.text={config.text} has no columns: "
            "use .jsonl, .parquet or a data set, or activations.group=null"
        )


def _records(
    file: InputFile, config: ActivationsConfig, split_by: str, names: GroupNames
) -> Iterator[Record]:
    """Yield a file's documents."""
    match file.kind:
        case ".jsonl":
            place = file.place()
            for place.number, row in json_rows(file):
                keys = list(row) if isinstance(row, dict) else []
                _require_columns(str(place), keys, config)
                yield _record(row, place, config, names)
        case ".parquet":
            place = file.place("row")
            _require_columns(str(place), parquet_columns(file), config)
            columns = [column for column in (config.text_column, config.group) if column]
            for place.number, row in parquet_rows(file, list(dict.fromkeys(columns))):
                yield _record(row, place, config, names)
        case _:
            _refuse_group(config)
            match split_by:
                case "file":
                    texts: Iterator[str] = iter([whole_text(file)])
                case "line":
                    texts = (line for _, line in lines(file) if line.strip())
                case _:
                    texts = (paragraph for _, paragraph in paragraphs(file))
            yield from ((text, ONE_GROUP[0]) for text in texts)


def _record(
    row: dict[str, Any], place: Place, config: ActivationsConfig, names: GroupNames
) -> Record:
    text = row[config.text_column]
    if not isinstance(text, str | None):
        raise BadInput(
            f"activations.text_column={config.text_column} of {place} holds {str(text)[:60]}: "
            "choose a column of text"
        )
    group = names.label(row[config.group], place) if config.group else ONE_GROUP[0]
    return text or "", group


def _require_columns(place: str, columns: list[str], config: ActivationsConfig) -> None:
    for key in ("text_column", "group"):
        column = getattr(config, key)
        if column is not None and column not in columns:
            raise BadInput(
                f"activations.{key}={column}: {place} has no such column; "
                f"it has {', '.join(columns) or 'none'}"
            )


def _of_dataset(config: ActivationsConfig) -> Iterator[Record]:
    names, place = GroupNames(config), Place(f"the data set {config.text}", "row")
    with edge(place, NO_HUB, "cannot be read further"):
        for place.number, row in enumerate(_dataset(config), start=1):
            text, group = _record(row, place, config, names)
            yield without_surrogates(text), group


def _dataset(config: ActivationsConfig) -> Any:
    """Open a data set by name: a stream, or a copy on the disk, downloaded where there is none."""
    if whole_kind(Path(config.text)) in KINDS or config.text.startswith((".", "/", "~")):
        raise BadInput(f"activations.text={config.text}: no such file: check the path")
    try:
        datasets = import_module("datasets")
    except ModuleNotFoundError:
        raise BadInput(
            f"activations.text={config.text} is no file here, and data sets need a package: "
            "check the path, or pip install sae-sweep[datasets]"
        ) from None
    options = {"streaming": True} if config.text_streaming else {}
    with edge(
        f"activations.text={config.text} with activations.text_split={config.text_split}",
        NO_HUB,
        "cannot be loaded",
    ):
        dataset = datasets.load_dataset(config.text, split=config.text_split, **options)
        columns = dataset.column_names or list(next(iter(dataset), {}))
    _require_columns(f"the data set {config.text}", columns, config)
    return dataset


def _content_of_dataset(config: ActivationsConfig, checksum: Callable[[Path], str]) -> list[Any]:
    """What tells the contents of a data set apart: of a stream its commit on the hub."""
    dataset = _dataset(config)
    if not config.text_streaming:
        if not len(dataset):
            raise BadInput(f"activations.text={config.text} is empty: give another data set")
        cached = [Path(file["filename"]) for file in dataset.cache_files]
        return [[path.suffix, checksum(path)] for path in cached]
    from huggingface_hub import dataset_info

    with edge(f"activations.text={config.text}", NO_HUB, "has no commit that can be asked for"):
        return ["streamed", str(dataset_info(config.text).sha)]
