"""The report as one HTML page that needs nothing else: figures, style and script are within it."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

_HERE = Path(__file__).parent


def to_html(markdown: str, folder: Path) -> str:
    """Make the page.

    Args:
        markdown: The report.
        folder: Where it lies, from which its figures are read.
    """
    parser = MarkdownIt("commonmark").enable("table")
    parser.add_render_rule("image", _image)
    body = parser.render(markdown, {"folder": folder})
    title = next(line[2:] for line in markdown.splitlines() if line.startswith("# "))
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        body=body,
    )


def _image(_: Any, tokens: Sequence[Token], place: int, *options_and_env: Any) -> str:
    """A figure with its bytes in it."""
    token = tokens[place]
    path = options_and_env[-1]["folder"] / str(token.attrs["src"]).replace("%20", " ")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    words = html.escape(token.content)
    return f'<img alt="{words}" title="{words}" src="data:image/png;base64,{data}">'
