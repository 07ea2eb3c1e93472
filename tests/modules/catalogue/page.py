"""The page docs/modules.md, from the table that the tests check.

To bring it up to date: `python -m tests.modules.catalogue.page`.
"""

from pathlib import Path
from typing import Any

from tests.modules.catalogue import losses, table
from tests.modules.catalogue.kind import Kind

PATH = Path(__file__).parents[3] / "docs" / "modules.md"
_OPENING = """\
# Modules, losses and data

What `raymeta.module_problem` makes of each kind of module and of loss. "Works" means
that hypergradients equal central differences of whole training runs to 1e-6 in double
precision, by `Reverse` (both engines), `Checkpointed`, `Truncated` over the whole run
and `Forward`, and that training itself is that of `torch.optim`. What does not work is
refused in one line before step 1; the last column has a part of that line. The table is
written by `python -m tests.modules.catalogue.page`, and tests try every row of it.

## Data

| data | |
|---|---|
| `TensorDataset`, `Subset` of one (of one, …) | works; no copy |
| `(x, y)`, tensors or numpy arrays | works, as `TensorDataset(x, y)` |
| any data set with `__len__` and `__getitem__`, a list of tuples | works |
| examples of tensors, arrays and numbers | works; Python's floats as precise as \
the weights |
| random numbers in `__getitem__` of torch's, Python's or numpy's global generators | \
works; in training a function of (seed, epoch, example), elsewhere of (seed, example) |
| other randomness, counts, an order that changes | refused: same when read again |
| `DataLoader` | works: its batches, sampler, `collate_fn`, `drop_last`; workers read \
ahead; the order is a function of (seed, epoch) |
| samplers that draw from the global generators or a `torch.Generator` of their own, or\
 follow `set_epoch` | seeded by (seed, epoch) |
| samplers that draw from elsewhere, or count epochs | refused by name |
| `DataLoader(batch_size=None)` | refused: give `batch_size=` |
| `IterableDataset` | read once, into memory |
| generators, no `__len__` | refused: by index |
| examples that are dicts, nested too | work: `module(**batch)`, or `module(batch)` \
where it takes no such names; `loss(outputs, batch)` |
| `None`, images, strings in examples | refused: turn it into a tensor, \
or collate them |
| examples of several shapes | by `collate=`, or the loader's `collate_fn`; \
else refused |
| random numbers in a collate function | work; a function of (seed, epoch, first \
example) |
| NaN or infinity in an example | refused with its index, unless the loss stays finite |
| another dtype than the weights' where the module cannot take it | refused with both |

## Modules
"""


def page() -> str:
    """The text of the page."""
    parts = [_OPENING]
    for title, kinds in table.SECTIONS.items():
        parts += [f"### {title}\n", _rows("module", kinds)]
    parts.append(
        "## Losses\n\n`loss`, and `train_loss` likewise, is called once with the first "
        "batch before step 1.\n"
    )
    for title, entries in losses.SECTIONS.items():
        parts += [f"### {title}\n", _rows("loss", entries)]
    return "\n".join(parts)


def _rows(head: str, entries: dict[str, Any]) -> str:
    lines = [f"| {head} | | |", "|---|---|---|"]
    for name, entry in entries.items():
        outcome, why = _outcome(entry)
        lines.append(f"| {name} | {outcome} | {why} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _outcome(entry: Any) -> tuple[str, str]:
    if entry.refused:
        return "refused", _quoted(entry.refused)
    if isinstance(entry, Kind) and entry.surrogate:
        return "with the derivative that its backward pass gives", ""
    if entry.except_for:
        names = " and ".join(f"`{name}`" for name in entry.except_for)
        why = "; ".join(map(_quoted, entry.except_for.values()))
        return f"works, but {names} refuses it", why
    return "works", ""


def _quoted(part: str) -> str:
    return f"`{part}`"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(page())
