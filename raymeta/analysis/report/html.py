"""Pieces of a page: sections, tables, pictures, and the page around them."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from raymeta.analysis.report.style import STYLE

LARGE = 1_500_000  # bytes of an SVG beyond which its PNG is shown
TYPES = {"svg": "image/svg+xml", "png": "image/png", "gif": "image/gif"}

_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
$alarm<header><h1>$title</h1><p>$subtitle</p></header>
<nav aria-label="Contents"><ol>$contents</ol></nav>
<main>
$sections
</main>
</body>
</html>
"""
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page, named in its contents.

    Attributes:
        title: plain text.
        body: its paragraphs, tables and pictures.
    """

    title: str
    body: Sequence[Markup]


def page(
    title: str, subtitle: str, sections: Iterable[Section], alarm: str = ""
) -> str:
    """Put a page together; a section without a body is left out.

    Args:
        title: Plain text, like the following.
        subtitle: Below it.
        sections: In order.
        alarm: What must not be overlooked, above everything else.
    """
    shown = [section for section in sections if section.body]
    entries = (
        f'<li><a href="#{slug(s.title)}">{escape(s.title)}</a></li>' for s in shown
    )
    bodies = (
        f'<section id="{slug(s.title)}"><h2>{escape(s.title)}</h2>\n'
        + "\n".join(s.body)
        + "</section>"
        for s in shown
    )
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        alarm=f'<p class="alarm" role="alert">{escape(alarm)}</p>\n' if alarm else "",
        style=STYLE,
        contents="".join(entries),
        sections="\n".join(bodies),
    )


def slug(title: str) -> str:
    """The name of an anchor: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def paragraph(text: str) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{_text(text)}</p>")


def heading(text: str) -> Markup:
    """A heading within a section."""
    return Markup(f"<h3>{_text(text)}</h3>")


def code(text: str) -> Markup:
    """Text to be copied as it is."""
    return Markup(f"<pre><code>{escape(text)}</code></pre>")


def words(text: str) -> Markup:
    """Code within a line."""
    return Markup(f"<code>{escape(text)}</code>")


def swatch(text: str, colour: str) -> Markup:
    """A name with the colour that it has in figures."""
    dot = f'<span class="dot" style="background:{escape(colour)}"></span>'
    return Markup(f"{dot}{escape(text)}")


def folded(summary: str, body: Iterable[Markup]) -> Markup:
    """Details that open on a click."""
    inside = "\n".join(body)
    return Markup(f"<details><summary>{escape(summary)}</summary>\n{inside}</details>")


def table(columns: Mapping[str, Sequence[str]], caption: str = "") -> Markup:
    """A table: the first column names the rows, cells that are numbers stand right.

    Args:
        columns: Header -> cells, all equally many; `Markup` is taken as it is.
        caption: Above it.
    """
    numeric = {name: _is_numeric(cells) for name, cells in columns.items()}
    head = "".join(
        f'<th scope="col"{_aligned(numeric[name])}>{_text(name)}</th>'
        for name in columns
    )
    rows = []
    for cells in zip(*columns.values(), strict=True):
        first, *others = zip(columns, cells, strict=True)
        row = [f'<th scope="row">{_text(first[1])}</th>']
        row += [f"<td{_aligned(numeric[n])}>{_text(cell)}</td>" for n, cell in others]
        rows.append(f"<tr>{''.join(row)}</tr>")
    above = f"<caption>{_text(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="wide" tabindex="0"><table>{above}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def picture(stem: str | Path, alt: str, *, photo: bool = False) -> Markup:
    """A figure that `style.save` wrote, inside the page.

    Args:
        stem: Path without suffix; the SVG is taken unless it is large.
        alt: What it shows, for who does not see it.
        photo: Whether it holds photographs, which keep their colours on dark screens.
    """
    stem = Path(stem)
    svg, png = (stem.parent / f"{stem.name}.{kind}" for kind in ("svg", "png"))
    source = _data(svg if svg.stat().st_size <= LARGE else png)
    kind = "photo" if photo else "plot"
    image = f'<img class="{kind}" src="{source}" alt="{escape(alt)}">'
    return Markup(f"<figure>{image}</figure>")


def moving_picture(gif: Path, still: Path, alt: str) -> Markup:
    """An animation; who prefers no motion sees the still."""
    calm = "(prefers-reduced-motion: reduce)"
    return Markup(
        f'<figure><picture><source media="{calm}" srcset="{_data(still)}">'
        f'<img class="plot" src="{_data(gif)}" alt="{escape(alt)}"></picture></figure>'
    )


def _data(path: Path) -> str:
    """A file as an address that holds it."""
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{TYPES[path.suffix[1:]]};base64,{content}"


def _text(text: str) -> str:
    return text if isinstance(text, Markup) else escape(text)


def _aligned(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether all cells begin like a number, or say that there is none."""
    plain = [cell for cell in cells if cell]
    return bool(plain) and all(re.match(r"[-−–+∞]|\d", cell) for cell in plain)
