"""What objects say of themselves: one line, a table in notebooks, a figure."""

import html
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

#: Numbers of a tensor that are shown; of more, shape and range.
FEW = 4
#: Entries of a mapping that are shown.
MOST = 12


def short(value: Any) -> str:
    """A value in a few words: numbers to five digits, of large tensors the range."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value) if isinstance(value, str) else repr(value)
        return text if len(text) <= 60 else f"{text[:60]} …"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _tensor(value: Tensor) -> str:
    numbers = value.detach()
    if numbers.numel() == 1:
        return f"{numbers.item():.5g}"
    if numbers.ndim == 1 and len(numbers) <= FEW:
        return f"[{', '.join(f'{x:.4g}' for x in numbers.tolist())}]"
    size = "x".join(map(str, numbers.shape))
    if not numbers.numel():
        return f"{size} of nothing"
    low, high = (float(x) for x in (numbers.min(), numbers.max()))
    return f"{size} from {low:.4g} to {high:.4g}"


def entries(values: Mapping[str, Any]) -> str:
    """A mapping on one line, the first dozen of it."""
    shown = [f"{name}={short(value)}" for name, value in [*values.items()][:MOST]]
    shown += [f"… and {len(values) - MOST} more"] * (len(values) > MOST)
    return ", ".join(shown)


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A table of two columns in HTML, as notebooks show it."""
    cells = [
        f"<tr><th style='text-align:left'>{html.escape(str(name))}</th>"
        f"<td style='text-align:left'>{html.escape(short(value))}</td></tr>"
        for name, value in [*rows.items()][: 4 * MOST]
    ]
    if len(rows) > 4 * MOST:
        cells.append(f"<tr><td>… and {len(rows) - 4 * MOST} more</td></tr>")
    return f"<b>{html.escape(title)}</b><table>{''.join(cells)}</table>"


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by flat name; NaN for what is no number."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.ndim:
            each = enumerate(value.detach().flatten().tolist())
            numbers |= {f"{name}[{i}]": x for i, x in each}
        elif isinstance(value, Tensor | int | float):
            numbers[name] = float(value)
        else:
            numbers[name] = math.nan
    return numbers


def figures() -> ModuleType:
    """What draws; matplotlib is loaded when it is asked for."""
    from raymeta.analysis.figures import objects

    return objects
