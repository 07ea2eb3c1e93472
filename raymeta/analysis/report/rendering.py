"""Pages of the report from Jinja templates: HTML that needs nothing else."""

import base64
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from raymeta.analysis.figures.style import colour
from raymeta.analysis.tables.text import number, visible

LARGE = 1_500_000  # bytes of an SVG beyond which its PNG is shown
TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".gif": "image/gif"}

#: Header -> cells, all equally many.
Columns = Mapping[str, Sequence[str]]


def render(template: str, **context: Any) -> str:
    """Fill a template of this package; all text in it is escaped."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("raymeta.analysis.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    filters = (colour, command_line, counted, data_url, drawing, number, records, slug)
    environment.filters |= {function.__name__: function for function in filters}
    environment.tests["numeric"] = is_numeric
    return environment


def slug(title: str) -> str:
    """The name of an anchor: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def counted(number: int, what: str) -> str:
    """A number of things, in the plural where it is not one."""
    return f"{number} {what}{'s' * (number != 1)}"


def command_line(arguments: Iterable[str]) -> str:
    """The command that started a run, as one would type it."""
    program, *others = arguments
    name = Path(program).name
    typed = ["python", program] if name.endswith(".py") else [name]
    return shlex.join([*typed, *others])


def drawing(stem: Path) -> str:
    """A figure that `style.save` wrote, as a URL: the SVG unless it is large.

    Args:
        stem: path without suffix.
    """
    svg, png = (stem.parent / f"{stem.name}.{kind}" for kind in ("svg", "png"))
    return data_url(svg if svg.stat().st_size <= LARGE else png)


def data_url(path: Path) -> str:
    """A picture as a URL that holds it."""
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{TYPES[path.suffix]};base64,{content}"


def records(columns: Columns) -> list[dict[str, str]]:
    """The rows of a table, each header -> cell."""
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, cells, strict=True)) for cells in rows]


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether all cells begin like a number, or say that there is none."""
    plain = [cell for cell in cells if cell]
    return bool(plain) and all(re.match(r"[-−–+∞]|\d", cell) for cell in plain)
