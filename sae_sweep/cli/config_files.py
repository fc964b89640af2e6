"""A user's own folder of choices, read and checked before Hydra sees it."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from sae_sweep.errors import BadInput
from sae_sweep.inputs import InputFile, edge, find_files, hidden, visible, whole_text

GIVEN_AS = "--config-dir: "
SUFFIX = ".yaml"
SURPRISING = re.compile(r"[-+]?(0[0-7_]+|0b[01_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Octal, binary and sexagesimal numbers of YAML 1.1: `010` would be 8 and `1:30` 90."""


def choice_files(folder: Path) -> list[Path]:
    """The YAML files in the folders that directly hold some; hidden ones are left out.

    Raises:
        BadInput: a folder or file cannot be read.
    """
    files = []
    for entry in visible(folder, GIVEN_AS, []):
        if entry.is_dir() and any(not hidden(one.name) for one in entry.glob(f"*{SUFFIX}")):
            files += [one.path for one in find_files(entry, GIVEN_AS, (SUFFIX,)).files]
    return files


@contextlib.contextmanager
def cleaned(folder: Path) -> Iterator[Path]:
    """Copy the choices of a folder in plain UTF-8 to one that Hydra can read.

    Hydra takes a byte order mark for text, and so overlooks the file's first line.

    Raises:
        BadInput: with file and line, for what cannot be read, and for numbers that YAML reads
            otherwise than the command line does.
    """
    with tempfile.TemporaryDirectory(prefix="sae-sweep-") as name:
        for path in choice_files(folder):
            file = InputFile(path, GIVEN_AS)
            text = whole_text(file)
            _refuse_surprising_numbers(file, text)
            copy = Path(name) / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
        yield Path(name)


def _refuse_surprising_numbers(file: InputFile, text: str) -> None:
    place = file.place()
    with edge(place, "correct the file"):
        try:
            for token in yaml.scan(text, yaml.SafeLoader):
                if isinstance(token, yaml.ScalarToken) and token.plain:
                    place.number = token.start_mark.line + 1
                    if SURPRISING.fullmatch(token.value) and token.value.strip("-+0_"):
                        raise BadInput(
                            f"{place}: YAML reads {token.value} as another number: write it in "
                            f"decimal, without zeros in front, or in quotes"
                        )
        except yaml.YAMLError:
            return  # Hydra says what is wrong, if the file is asked for
