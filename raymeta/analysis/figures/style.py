"""One look for all figures: a colour per method, fonts, grid, and saving.

Figures are `matplotlib.figure.Figure` objects without pyplot, so that they work on a
head node without a display and from any thread; settings hold inside `context()` only.
"""

import colorsys
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from raymeta.analysis.tables.text import visible
from raymeta.results.atomic import atomic_write
from raymeta.results.schema import BLACK_BOX, HYBRID, TUNING_FREE

INK, MUTED = "#222222", "#6b6b6b"  # text; notes and the target line
ALARM = "#b00020"  # what must not be overlooked
OTHERS = "#c4c4c4"  # methods that a crowded panel does not name
DPI = 160

# After Okabe and Ito (2008) and Tol (2021): told apart with any colour vision.
COLOURS = {
    "short_term": "#0072b2",  # blue
    "long_term": "#d55e00",  # vermilion
    "forward_online": "#009e73",  # bluish green
    "random": "#8a8a8a",  # grey
    "asha": "#aa4499",  # purple
    "tpe": "#222222",  # black
    "reverse": "#d55e00",  # another name of the full unroll
    "truncated": "#e69f00",  # orange
    "checkpointed": "#882255",  # wine
    "reversible": "#999933",  # olive
    "implicit": "#56b4e9",  # sky blue
    "forward": "#66a61e",  # leaf green
    "es": "#3f51d8",  # indigo
    "pes": "#00838f",  # petrol
    "tpe_descent": "#e4002b",  # red
    "pbt_descent": "#ff6fae",  # pink
    "restarts": "#7b2fbe",  # violet
    "pbt": "#cc79a7",  # rose
    "pb2": "#a0522d",  # sienna
    "grid": "#c2a25c",  # sand
    "sobol": "#4f7f5f",  # moss
    "hyperband": "#cc6677",  # brick
    "median": "#b7a0a0",  # ash
    "cmaes": "#3b6ea5",  # steel blue
    "gp": "#7f6000",  # umber
    "bohb": "#5b2a86",  # plum
    "hyperopt": "#5f6b6d",  # slate
    "nevergrad": "#2f8f9d",  # teal
    "bayesopt": "#6d4c41",  # coffee
    "smac": "#8c2d04",  # rust
    "ax": "#1b7837",  # emerald
    "blendsearch": "#c51b7d",  # magenta
    "cqr": "#35608d",  # denim
    "asha_cqr": "#9970ab",  # lavender
    "random_batch": "#b3b300",  # mustard
}

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    # Names are what people call things: a $ in one begins no formula.
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "raymeta",
    "path.simplify": True,
}


def context() -> AbstractContextManager[None]:
    """Apply the style inside a `with` block; matplotlib's settings return after it."""
    return mpl.rc_context(_SETTINGS)


def colour(method: str) -> str:
    """Return a method's colour, the same in every figure and whatever else is drawn.

    Args:
        method: any name (an estimator's class is its method's); one that is not in
            `COLOURS` gets a hue made from its letters.

    Returns:
        A hexadecimal colour.
    """
    known = COLOURS.get(method) or COLOURS.get(method.lower())
    if known:
        return known
    number = zlib.crc32(method.encode())
    hue, lightness = (number % 1009) / 1009, (0.35, 0.5)[number // 1009 % 2]
    return to_hex(colorsys.hls_to_rgb(hue, lightness, 0.65))


def text_colour(method: str) -> str:
    """Return a method's colour, darkened until it reads well as text on white."""
    rgb = to_rgb(colour(method))
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True))
    return to_hex([c * min(1.0, 0.42 / max(luminance, 1e-9)) for c in rgb])


def dashes(family: str) -> str | tuple[float, tuple[float, ...]]:
    """Return a line style of a family's; solid for hypergradient methods."""
    styles = {
        BLACK_BOX: (0, (4, 1.6)),
        HYBRID: (0, (7, 1.4, 1.4, 1.4)),
        TUNING_FREE: (0, (5, 1.2, 1, 1.2, 1, 1.2)),
    }
    return styles.get(family, "-")


def save(figure: Figure, path_stem: str | Path) -> list[Path]:
    """Write a figure as PNG and SVG, then clear it.

    Args:
        figure: the figure; it is empty afterwards.
        path_stem: the files' path without suffix; its folder is made when missing.

    Returns:
        The PNG's path and the SVG's.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.parent / f"{stem.name}.{kind}" for kind in ("png", "svg"))
    for each in figure.findobj():
        if isinstance(each, Text):
            each.set_text(visible(each.get_text()))
            each.set_parse_math(False)
        if name := each.get_gid():
            each.set_gid(visible(name))
    with context():
        # Never through a link that the folder has under such a name.
        with atomic_write(png) as file:
            figure.savefig(file, format="png", dpi=DPI)
        with atomic_write(svg) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
    figure.clear()
    return [png, svg]
