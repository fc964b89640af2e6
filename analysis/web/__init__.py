"""The report as one HTML file that needs nothing else, with the trials to explore."""

import base64
import json
import re
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from analysis.page.blocks import Blocks, markdown
from analysis.page.markdown import anchor
from analysis.study.table import Study
from analysis.web.trials import trials
from sae_sweep.errors import BadInput

FOLD = re.compile(r"<details><summary>[^<>]*</summary>|</details>")
"""The only HTML that our Markdown holds; any other comes from users and is shown as text."""


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


def page(study: Study, sections: list[Blocks], figures: Path) -> str:
    """The whole page; pictures, styles, scripts and data are inside it."""
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("analysis", "web"), autoescape=True, trim_blocks=True
    )
    header, *others = [_html(blocks, figures) for blocks in sections]
    titles = [str(blocks[0]).partition("\n")[0].lstrip("# ") for blocks in sections[1:]]
    return environment.get_template("page.html").render(
        name=study.run.name,
        header=_linked(header, titles),
        sections=others,
        titles=titles,
        data=_script_data(trials(study)),
        style=_file("page.css"),
        script=_file("page.js"),
        plotly=get_plotlyjs(),
    )


def _linked(header: str, titles: list[str]) -> str:
    """The first page with its links into details.md turned to the topics of this page."""
    places = {anchor(title): i for i, title in enumerate(titles, start=1)}
    return re.sub(
        r'href="details\.md(?:#([^"]*))?"',
        lambda found: f'href="#section-{places.get(found[1], 1)}"',
        header,
    )


def _html(blocks: Blocks, figures: Path) -> str:
    """A section's Markdown as HTML, its pictures inside."""
    text: str = _renderer().render(markdown(blocks))
    return re.sub(r'src="figures/(\w+\.png)"', lambda found: _picture(figures / found[1]), text)


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
