"""A page of headings, sentences, tables and figures, as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Say:
    """A sentence. kind: a warning stands out, a protocol stands back."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Items:
    texts: Sequence[str]


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """words: how many of the first columns are no numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int


@dataclass(frozen=True)
class Figure:
    """png, and pdf beside it, in the folder of the page or below."""

    caption: str
    png: Path
    pdf: Path


Block = Heading | Say | Items | Grid | Figure


def markdown(blocks: Sequence[Block], folder: Path) -> str:
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Say(text, kind):
            return f"**Warning:** {_plain(text)}" if kind == "warning" else _plain(text)
        case Items(texts):
            return "\n".join(f"- {_plain(text)}" for text in texts)
        case Grid(headings, rows, words):
            bars = [":--" if column < words else "--:" for column in range(len(headings))]
            cells = [[f"**{_plain(c.text)}**" if c.best else _plain(c.text) for c in row] for row in rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in ([_plain(h) for h in headings], bars, *cells))
        case Figure(caption, png, pdf):
            at, printed = (file.relative_to(folder).as_posix() for file in (png, pdf))
            return f"![{_plain(png.stem)}]({at})\n\n{_plain(caption)} ([PDF]({printed}))"


def _plain(text: str) -> str:
    """Without what Markdown would read as its own."""
    for sign in "\\`*_[]<>|&$~":
        text = text.replace(sign, f"\\{sign}")
    return re.sub(r"^(?=[#+=-]+(\s|$))", r"\\", " ".join(text.split()))


_STYLE = """
:root { color-scheme: light; --ink: #1c2330; --soft: #5b6577; --rule: #dde2ea; --tint: #f5f7fa; --mark: #0b6e4f; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: #fff; max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule); }
p, li { max-width: 52rem; overflow-wrap: anywhere; }
.protocol { color: var(--soft); font-size: .875rem; }
.warning { background: #fff4e0; border-left: 4px solid #d98200; padding: .6rem .9rem; border-radius: 0 4px 4px 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .9rem .38rem .55rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
td { border-bottom: 1px solid var(--rule); }
tbody tr:hover { background: var(--tint); }
.word { text-align: left; }
.best { font-weight: 700; color: var(--mark); }
figure { margin: 1.4rem 0 2.2rem; }
img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 52rem; }
"""


def html(blocks: Sequence[Block], folder: Path) -> str:
    name = next((block.text for block in blocks if isinstance(block, Heading)), folder.name)
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Say(text, kind):
            return f'<p class="{kind}">{"<b>Warning:</b> " if kind == "warning" else ""}{escape(text)}</p>'
        case Items(texts):
            return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"
        case Grid(headings, rows, words):
            head = "".join(_cell("th", text, column < words, False) for column, text in enumerate(headings))
            body = "\n".join(
                "<tr>" + "".join(_cell("td", c.text, column < words, c.best) for column, c in enumerate(row)) + "</tr>"
                for row in rows
            )
            return (
                f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
            )
        case Figure(caption, png, pdf):
            data = base64.b64encode(png.read_bytes()).decode()
            link = f'<a href="{escape(pdf.relative_to(folder).as_posix())}">PDF</a>'
            return (
                f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(caption)} ({link})</figcaption></figure>"
            )


def _cell(tag: str, text: str, word: bool, best: bool) -> str:
    classes = " ".join(name for name, on in (("word", word), ("best", best)) if on)
    return f'<{tag} class="{classes}">{escape(text)}</{tag}>' if classes else f"<{tag}>{escape(text)}</{tag}>"
