"""Numbers and columns as plain text."""

import math
import re

MISSING = "–"
#: Control characters but for tabs and new lines, marks that turn the order of letters
#: or have no width, and halves of characters.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Text in which what cannot be seen stands as its code: a name may have it."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def number(value: float) -> str:
    """Write a number in about seven characters: `MISSING` for NaN, ∞ for infinity."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 99_999.5:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    if size >= 99.995 or value == 0:
        return f"{value:,.0f}"
    if size >= 0.001:
        return f"{value:#.4g}"
    return f"{value:.1e}".replace("e-0", "e-")


def shorten(name: str, limit: int = 16) -> str:
    """Cut a name to `limit` characters, an ellipsis last."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def span(low: float, high: float) -> str:
    """Write an interval; `MISSING` without a lower end."""
    return MISSING if math.isnan(low) else MISSING.join([number(low), number(high)])


def per_cent(share: float) -> str:
    """Write a share of one as per cent; `MISSING` for NaN."""
    return MISSING if math.isnan(share) else f"{100 * share:.2f}%"


def ratio(part: float, whole: float) -> str:
    """Write `part` as a multiple of `whole`; `MISSING` when that is undefined."""
    defined = math.isfinite(part) and math.isfinite(whole) and whole > 0
    return f"{part / whole:.2f}×" if defined else MISSING


def align(columns: dict[str, list[str]]) -> list[str]:
    """Join columns of equal length into lines: the first left, the others right."""
    padded = []
    for place, cells in enumerate(columns.values()):
        width = max(map(len, cells))
        pad = str.rjust if place else str.ljust
        padded.append([pad(cell, width) for cell in cells])
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
