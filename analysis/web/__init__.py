"""The report as one HTML file that needs nothing else: the answer, the front, every trial."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import unescape
from importlib import import_module, resources
from pathlib import Path
from typing import Any, NamedTuple

from analysis.page.blocks import Block, Blocks, markdown
from analysis.page.markdown import anchor
from analysis.study.table import Study
from analysis.topics import pareto
from analysis.topics.recommended import Recommendation
from analysis.web import trials
from sae_sweep.errors import BadInput

FOLD = re.compile(r"<details><summary>[^<>]*</summary>|</details>")
"""The only HTML that our Markdown holds; any other comes from users and is shown as text."""
HEADING = re.compile(r"\*\*(.+)\*\*|## (.+)")
"""A block that is nothing but a heading of the first page."""
LEAD = ("Answer", "Can it be trusted?")
"""The parts of the first page that stand beside the front."""
FRONT = f"figures/{pareto.NAME}.png"


def require() -> None:
    """Ask for the libraries of the extra `html` before any work is done.

    Raises:
        BadInput: one of them is missing.
    """
    for name in ("plotly", "markdown_it", "jinja2"):
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise BadInput(
                f"--html needs the package {name}: pip install 'sae-sweep[html]', "
                "or leave --html away"
            ) from None


class Part(NamedTuple):
    """A part of the first page, under its heading."""

    title: str
    slug: str
    html: str


class Fold(NamedTuple):
    """A topic of the details."""

    title: str
    teaser: str
    """Its first sentence about this sweep, without markup."""
    html: str


def page(
    study: Study,
    first: Blocks,
    groups: Mapping[str, Sequence[Blocks]],
    figures: Path,
    live: Mapping[str, Any] | None = None,
) -> str:
    """The whole page; pictures, styles, scripts and data are inside it.

    Args:
        study: the sweep.
        first: the first page's blocks: title, question, then parts under headings.
        groups: the details' topics by the name of their group.
        figures: the folder of the pictures.
        live: what a running sweep shows, see `analysis.live`; None for a finished report.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("analysis", "web"), autoescape=True, trim_blocks=True
    )
    data = trials.trials(study)
    folds = {
        name: [_fold(blocks, figures) for blocks in sections] for name, sections in groups.items()
    }
    titles = [fold.title for each in folds.values() for fold in each]
    has_front = bool(data["front"]["objectives"])
    parts = list(_parts(first, titles, figures, has_front=has_front))
    return environment.get_template("page.html").render(
        name=study.run.name,
        question=study.run.question,
        lead=[part for part in parts if part.title in LEAD],
        parts=[part for part in parts if part.title not in LEAD],
        cards=trials.cards(study),
        groups=folds,
        has_front=has_front,
        live=live,
        data=_script_data({**data, "live": live}),
        style=_file("page.css"),
        scripts=[get_plotlyjs(), _file("page.js")],
    )


def _parts(
    first: Blocks, titles: Sequence[str], figures: Path, *, has_front: bool
) -> Iterator[Part]:
    """The first page under its headings; what cards and charts show in its place is left out."""
    places = {anchor(title): i for i, title in enumerate(titles, start=1)}
    found: list[tuple[str, list[Block]]] = []
    for block in first:
        if isinstance(block, str) and (heading := HEADING.fullmatch(block)):
            found.append((heading[1] or heading[2], []))
        elif (
            found
            and not isinstance(block, Recommendation)
            and not (has_front and isinstance(block, str) and FRONT in block)
        ):
            found[-1][1].append(block)
    for title, blocks in found:
        html = re.sub(
            r'href="details\.md(?:#([^"]*))?"',
            lambda link: f'href="#topic-{places.get(link[1], 1)}"',
            _html(blocks, figures),
        )
        yield Part(title, anchor(title), html)


def _fold(blocks: Blocks, figures: Path) -> Fold:
    title = str(blocks[0]).removeprefix("## ")
    teaser = next((block.words for block in blocks if not isinstance(block, str)), "")
    return Fold(title, _text(teaser), _html(blocks[1:], figures))


def _text(words: str) -> str:
    """A sentence without its markup."""
    return unescape(re.sub(r"<[^>]*>", "", _renderer().renderInline(words)))


def _html(blocks: Blocks, figures: Path) -> str:
    """Blocks as HTML, pictures inside it; a figure brings its caption, a table its scroll bar."""
    text: str = _renderer().render(markdown(blocks))
    text = re.sub(
        r'<p><img src="figures/(\w+\.png)" alt="([^"]*)" /></p>',
        lambda found: (
            f'<figure><img alt="" {_picture(figures / found[1])}>'
            f"<figcaption>{_capital(found[2])}</figcaption></figure>"
        ),
        text,
    )
    return text.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _picture(path: Path) -> str:
    return f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'


@cache
def _renderer() -> Any:
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml

    def shown(tokens: Any, index: int, _options: Any, _env: Any) -> str:
        content = tokens[index].content.strip()
        return f"{content}\n" if FOLD.fullmatch(content) else escapeHtml(content)

    rendering = MarkdownIt("commonmark", {"html": True}).enable("table")
    for kind in ("html_block", "html_inline"):
        rendering.add_render_rule(kind, lambda _self, *arguments: shown(*arguments))
    return rendering


def _file(name: str) -> str:
    return resources.files("analysis.web").joinpath(name).read_text(encoding="utf-8")


def _script_data(value: object) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
