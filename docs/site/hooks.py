"""Hooks of mkdocs: the README as the first page, the reference, mathematics as MathML.

What a browser needs is in the site: it reads it without network, and without scripts for
mathematics.
"""

import ast
import base64
import html
import io
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from matplotlib.figure import Figure
from mkdocs.structure.files import File
from mkdocs_gallery import gen_single

# Ray asks the output for these, which that of an example lacks.
gen_single._LoggingTee.encoding = "utf-8"
gen_single._LoggingTee.fileno = lambda self: sys.__stdout__.fileno()

ROOT = Path(__file__).parents[2]
#: Rooms of the package that have a page of reference each.
ROOMS = (
    "analysis",
    "data",
    "distributed",
    "hypergrad",
    "meta",
    "modules",
    "online",
    "optim",
    "tasks",
    "train",
    "tune",
)
_MATH = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)


def _picture(figure):
    """A figure as examples show it by its name, in the page itself."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="figure" src="data:image/png;base64,{data}">'


Figure._repr_html_ = _picture


def on_files(files, config):
    """Add the first page and the reference."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    # Files beside it are no pages: they are named.
    readme = re.sub(r"\[`?([^\]`]+)`?\]\((?!docs/|https?:|#)[^)]+\)", r"`\1`", readme)
    readme = re.sub(r"\((?:docs/)([^)]+)\)", r"(\1)", readme)
    pages = {"index.md": readme, "reference/raymeta.md": _top()}
    pages |= {f"reference/{room}.md": _room(room) for room in ROOMS}
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Files of the repository that are no pages are named, not linked."""
    markdown = re.sub(r"\[`?([^\]`]+)`?\]\(\.\./(?!\.)[^)]+\)", r"`\1`", markdown)
    # Blocks with their dollars on lines of their own, also right behind text.
    return re.sub(r"(?<!\n)\n\$\$\n", "\n\n$$\n", markdown)


def on_page_content(content, page, config, files):
    """Mathematics as browsers draw it by themselves."""

    def drawn(found):
        kind = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[3]).strip(), display=kind)

    return _MATH.sub(drawn, content)


def _top():
    """The page of `raymeta` itself, by the names that type checkers see."""
    tree = ast.parse((ROOT / "raymeta/__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    names = sorted(
        f"{node.module}.{alias.name}"
        for node in checked.body
        if node.module != "raymeta"
        for alias in node.names
    )
    return _page("raymeta", names)


def _room(room):
    """The page of a room, by its `__all__`."""
    tree = ast.parse((ROOT / f"raymeta/{room}/__init__.py").read_text(encoding="utf-8"))
    names = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    known = [n for n in names[0] if not n.isupper() or n in ("ES", "PES")]
    return _page(f"raymeta.{room}", [f"raymeta.{room}.{name}" for name in known])


def _page(title, names):
    blocks = "\n".join(f"::: {name}\n" for name in names)
    return f"# {title}\n\n{blocks}"
