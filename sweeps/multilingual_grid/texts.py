"""Sentences in several languages: the messages of the programs that are installed.

    python sweeps/multilingual_grid/texts.py outputs/cache/messages.parquet

Every catalogue below /usr/share/locale holds a program's messages in English and in one other
language. Kept are those of 40 characters and more that stand in every language, in the order of the
catalogues; one row a message and language, with the columns text, language, catalogue.
"""

import argparse
import gettext
from pathlib import Path

import pandas as pd

LANGUAGES = ("de", "es", "fr", "it", "sv")
LOCALES = Path("/usr/share/locale")
SHORTEST = 40
"""Characters below which a message is a label, not a sentence."""


def messages(locales: Path, language: str) -> dict[tuple[str, str], str]:
    """A language's messages by catalogue and English text."""
    found = {}
    for path in sorted((locales / language / "LC_MESSAGES").glob("*.mo")):
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)
        except UnicodeDecodeError:
            continue  # a catalogue that does not say how it is encoded
        # the only access to the pairs that the standard library has
        for english, text in vars(catalogue)["_catalog"].items():
            if isinstance(english, str) and len(english) >= SHORTEST and len(text) >= SHORTEST:
                found[path.stem, " ".join(english.split())] = " ".join(text.split())
    return found


def table(locales: Path, most: int) -> pd.DataFrame:
    """Up to `most` messages in English and in every language; translated ones only."""
    by_language = {language: messages(locales, language) for language in LANGUAGES}
    shared = sorted(set.intersection(*(set(one) for one in by_language.values())))
    translated = [key for key in shared if all(one[key] != key[1] for one in by_language.values())]
    # every so-manyth, so that no catalogue fills the table
    kept = translated[:: max(1, len(translated) // most)][:most]
    rows = [(key[1], "en", key[0]) for key in kept]
    rows += [(one[key], language, key[0]) for language, one in by_language.items() for key in kept]
    return pd.DataFrame(rows, columns=["text", "language", "catalogue"])


def main() -> None:
    """Write the table and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", type=Path)
    parser.add_argument("--locales", type=Path, default=LOCALES)
    parser.add_argument("--most", type=int, default=2_000, help="messages a language")
    arguments = parser.parse_args()
    found = table(arguments.locales, arguments.most)
    if found.empty:
        parser.error(f"--locales={arguments.locales} has no message in all of {LANGUAGES}")
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    found.to_parquet(arguments.to, index=False)
    counts = found["language"].value_counts().sort_index()
    print(f"{arguments.to}: {', '.join(f'{n} {name}' for name, n in counts.items())}")


if __name__ == "__main__":
    main()
