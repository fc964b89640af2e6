"""The parts of a Markdown page that a script writes."""

from pathlib import Path


def replace(page: Path, name: str, text: str) -> None:
    """Put `text` between the page's markers `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: where the page lacks one of them.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not start or not end:
        raise ValueError(f"{page} lacks <!-- {name} --> or <!-- /{name} -->: put both back")
    page.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
