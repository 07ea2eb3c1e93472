"""The page docs/methods.md: what `raymeta list` names, with its docstrings.

To bring it up to date: `python -m tests.docs.methods_page`.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from raymeta import hypergrad, meta, optim, tasks
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.search.methods import DEFAULT, METHODS
from raymeta.tasks.base import origin
from raymeta.train import ALGORITHMS, KIND_OF
from tests.docs.pages import ROOT

PATH = ROOT / "docs" / "methods.md"
_OPENING = """\
# Methods

Everything that goes by a name, as `raymeta list` has it, with the docstrings of the
code: this page is written by `python -m tests.docs.methods_page`, and a test says when
it is out of date.

- [Methods of a comparison](#methods-of-a-comparison)
- [Estimators](#estimators) of the hypergradient
- [Linear solvers](#linear-solvers) of the implicit one
- [Inner optimizers](#inner-optimizers)
- [Meta-learning algorithms](#meta-learning-algorithms)
- [Tasks](#tasks)
"""
_METHODS = """\
`raymeta compare --methods NAME …`, or `raymeta.compare(task, [NAME, …])`; `all` is
every one whose packages are there (`pip install -r requirements-search.txt`). What a
task does not allow is skipped with the reason. Every estimator is a method by its own
name, too: `reverse` is `long_term`. The default is {default}.

`smac`, `ax`, `blendsearch` and `cqr` are their libraries' searchers at the libraries'
defaults; [Results](results.md#searches-and-their-own-libraries) holds them against what
the libraries do by themselves. All begin at the initial point and are shown every
hyperparameter, log λ for `Positive` and options by number; what the options do not use
is left out of the trial. syne-tune also needs xgboost (with CUDA's NCCL on Linux, 300
MB) and huggingface_hub, which it imports and does not use here.
"""
_ESTIMATORS = """\
How to differentiate is an argument: `raymeta.hypergradient(problem, hparams,
estimator)` takes an object, `raymeta.optimize(task, estimator)` a name as well, sized
to the task's horizon T.
"""
_SOLVERS = "`raymeta.hypergrad.Implicit(steps, solver=…)` takes one.\n"
_OPTIMIZERS = """\
`raymeta.module_problem(optimizer=lambda h: …)` takes one at λ. Every numeric setting
may be learnt: see [the guide](guide.md#settings-numbers-mappings-schedules).
"""
_ALGORITHMS = """\
`raymeta train --algorithm NAME --family NAME`; in Python they are functions of
`raymeta.meta`, which make the learner that a `MetaModule` takes. What the docstrings
call `Options` are `metrics`, `batch_norm` and `seed`.
"""
_TASKS = "`raymeta compare --tasks NAME`; in Python `raymeta.tasks.get(NAME)`.\n"
_CLASSES = (
    "ShortTerm",
    "Reverse",
    "Truncated",
    "Checkpointed",
    "Reversible",
    "Forward",
)
_CLASSES += ("Smoothed", "Combined", "Implicit", "SOBA", "ES", "PES")
#: Backslashes before punctuation are Markdown's, not the equation's.
_SPELLED = {
    "\\\\": r"\cr",
    r"\,": r"\thinspace",
    r"\;": r"\thickspace",
    r"\!": r"\negthinspace",
    r"\{": r"\lbrace",
    r"\}": r"\rbrace",
}
_LINEAR_SOLVERS = ("ConjugateGradient", "Neumann", "FixedPoint")
_RULES = ("sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adadelta")
_RULES += ("lion", "clip_by_norm", "clip_by_value", "first_order", "from_torch")


def page() -> str:
    """The text of the page."""
    default = ", ".join(f"`{name}`" for name in DEFAULT)
    every = {name: tasks.get(name) for name in tasks.names()}
    parts = [
        _OPENING,
        "## Methods of a comparison\n",
        _METHODS.format(default=default),
        _table(("method", "family", "", "needs"), map(_method, METHODS.items())),
        *_by_class(METHODS),
        "## Estimators\n",
        _ESTIMATORS,
        _table(("name", "at T = 100"), map(_sized, ESTIMATORS.items())),
        *(_entry(f"`{name}`", getattr(hypergrad, name)) for name in _CLASSES),
        "## Linear solvers\n",
        _SOLVERS,
        *(_entry(f"`{name}`", getattr(hypergrad, name)) for name in _LINEAR_SOLVERS),
        "## Inner optimizers\n",
        _OPTIMIZERS,
        *(_entry(f"`{name}`", getattr(optim, name)) for name in _RULES),
        "## Meta-learning algorithms\n",
        _ALGORITHMS,
        _table(("algorithm", "families"), map(_algorithm, ALGORITHMS.items())),
        *(_entry(f"`{name}`", getattr(meta, name)) for name in ALGORITHMS),
        "## Tasks\n",
        _TASKS,
        _table(("task", "λ", "T", "budget", "origin"), map(_task, every.items())),
        *_by_class(every),
    ]
    return "\n".join(parts)


def _method(named: tuple[str, Any]) -> tuple[str, ...]:
    name, method = named
    needs = " ".join(f"`{line}`" for line in method.requires)
    return f"`{name}`", method.family, method.summary, needs


def _sized(named: tuple[str, Any]) -> tuple[str, ...]:
    """Name, and the estimator with what is not the default."""
    name, make = named
    made = make(100)
    own = [f for f in fields(made) if getattr(made, f.name) != f.default]
    given = [f"{f.name}={getattr(made, f.name)}" for f in own if f.name != "solver"]
    return f"`{name}`", f"`{type(made).__name__}({', '.join(given)})`"


def _algorithm(named: tuple[str, Any]) -> tuple[str, ...]:
    name, algorithm = named
    families = [family for family, kind in KIND_OF.items() if kind in algorithm.inner]
    return f"`{name}`", ", ".join(f"`{family}`" for family in families)


def _task(named: tuple[str, Any]) -> tuple[str, ...]:
    name, task = named
    count = len(task.space.flat_domains())
    return f"`{name}`", f"{count}", f"{task.horizon}", f"{task.budget:g}", origin(task)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _by_class(things: Mapping[str, Any]) -> list[str]:
    """One entry for those of one class."""
    names: dict[type, list[str]] = {}
    for name, thing in things.items():
        names.setdefault(type(thing), []).append(f"`{name}`")
    return [_entry(", ".join(own), kind) for kind, own in names.items()]


def _entry(title: str, thing: object) -> str:
    """A docstring in Markdown, without what it raises."""
    parts = [f"### {title}\n"]
    for part in re.split(r"\n\n(?=\S)", inspect.getdoc(thing) or ""):
        head, _, rest = part.partition("\n")
        if head in ("Args:", "Attributes:", "Returns:"):
            parts.append(
                _listed(rest) if head != "Returns:" else f"Returns: {_flat(rest)}\n"
            )
        elif head != "Raises:":
            parts.append(_displayed(part))
    return "\n".join(parts)


def _listed(arguments: str) -> str:
    """Arguments as a list; a line further in goes on with the one before."""
    entries = re.split(r"\n {4}(?=\S)", f"\n{arguments}")[1:]
    lines = (re.match(r"(\**\w+): (.*)", entry, re.DOTALL) for entry in entries)
    return (
        "\n".join(f"- `{line[1]}`: {_flat(line[2])}" for line in lines if line) + "\n"
    )


def _flat(text: str) -> str:
    return " ".join(text.split())


def _displayed(part: str) -> str:
    """A paragraph, its displayed equations each on a line of its own."""
    return (
        _rewritten(r"\$\$(.*?)\$\$", lambda math: f"$$\n{_math(math)}\n$$", part) + "\n"
    )


def _math(equation: str) -> str:
    """On one line, and without what Markdown takes for an escape or a list."""
    for short, spelled in _SPELLED.items():
        equation = equation.replace(short, f"{spelled} ")
    return _flat(equation)


def _rewritten(pattern: str, by: Callable[[str], str], text: str) -> str:
    return re.sub(pattern, lambda found: by(found[1]), text, flags=re.DOTALL)


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
