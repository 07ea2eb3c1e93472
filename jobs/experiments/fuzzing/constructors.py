"""Everything that is constructed or called with arguments, and values of all kinds."""

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real as RealNumber
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta
from jobs.experiments.fuzzing.surface import Surface, refusal
from raymeta import data, hypergrad, meta, online, optim, tasks
from raymeta.search.methods import METHODS
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.testing import in_process
from raymeta.train import TrainConfig, recipe

Arguments = dict[str, Any]


class Unprintable:
    """What has no text."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


EXTREME = [1e-320, 1e20, 1e308, 10**30, float("inf")]
NUMBERS = [0, 1, -1, 2, 3.5, float("nan"), *EXTREME]
PLAIN: list[Any] = [
    None,
    True,
    "",
    "x",
    b"x",
    1j,
    (),
    (1, 2),
    [],
    [1, [2]],
    {},
    {"a": 1},
    set(),
]
TENSORS = [torch.tensor(0.1), torch.ones(2), torch.ones(0), torch.tensor(1j)]
OTHERS = [np.float64(0.1), np.ones(2), np.array(["a"]), object, object(), print, ...]
OTHERS += [Unprintable(), Positive(0.1), Space(a=Real(0.0)), optim.sgd(0.1)]
VALUES = [*NUMBERS, *PLAIN, *TENSORS, *OTHERS, hypergrad.Reverse(2)]

#: Arguments of which memory grows: nothing beyond `LARGEST` is given for them.
SIZES = {"inputs", "outputs", "width", "depth", "latent", "points", "dimensions"}
SIZES |= {"epochs", "context", "frequency", "shape", "ways", "shots", "queries"}
SIZES |= {"budget", "seeds", "workers", "gpus", "slots", "horizon", "steps_per_epoch"}
LARGEST = 64

MODULE: Arguments = {"module": nn.Linear(2, 2), "loss": F.mse_loss}
IMAGES: Arguments = {"images": torch.ones(1, 2, 2), "labels": torch.tensor([0, 1])}
ES: Arguments = {"steps": 3, "sigma": 0.1, "pairs": 2}
TRAINING: Arguments = {
    "algorithm": "maml",
    "learner": lambda seed: meta.learned_dataset(),
    "family": data.Sinusoid(),
    "outer_steps": 3,
    "tasks_per_step": 2,
}
_WHOLE = ("Reverse", "Checkpointed", "Reversible", "Forward", "Implicit", "ShortTerm")

#: By kind: what is called, with arguments that it takes.
RIGHT_OF: dict[str, dict[Callable[..., Any], Arguments]] = {
    "domains": {
        **{kind: {"initial": 0.5} for kind in (Positive, Unit, Real)},
        Choice: {"options": (1, 2)},
    },
    "optimizers": {
        **{getattr(optim, name): {} for name in ("adam", "adamw", "lion", "nadam")},
        **{getattr(optim, name): {} for name in ("radam", "rmsprop", "adagrad")},
        **{getattr(optim, name): {} for name in ("adadelta", "muon")},
        optim.sgd: {"lr": 0.1, "momentum": 0.9},
    },
    "estimators": {
        **{getattr(hypergrad, name): {"steps": 3} for name in _WHOLE},
        hypergrad.ES: ES,
        hypergrad.PES: ES,
        hypergrad.Truncated: {"steps": 3, "window": 2},
        hypergrad.Smoothed: {"estimator": hypergrad.Reverse(3)},
        hypergrad.Combined: {"estimators": (hypergrad.Reverse(3),)},
        hypergrad.ConjugateGradient: {},
        hypergrad.FixedPoint: {"iterations": 3},
        hypergrad.Neumann: {"iterations": 3, "lr": 0.1},
    },
    "learners": {
        meta.Siren: {"inputs": 1, "outputs": 1},
        meta.cavia: MODULE | {"context": 1},
        meta.distillation: MODULE | IMAGES,
        meta.learned_dataset: {},
        **dict.fromkeys((meta.maml, meta.imaml, meta.reptile), MODULE),
        meta.first_order: {"learner": meta.learned_dataset()},
    },
    "methods": {type(method): {} for method in METHODS.values()},
    "training": {TrainConfig: TRAINING},
}
RIGHT = {call: given for group in RIGHT_OF.values() for call, given in group.items()}

#: Arguments of optimizers that are no numbers, whatever else is taken for them.
_FLAGS = {"amsgrad", "nesterov", "centered", "maximize", "decoupled_weight_decay"}
_DATA = TensorDataset(torch.ones(4, 2), torch.zeros(4, 2))
_PROBLEM: Arguments = {
    "init": lambda hparams: torch.ones(()),
    "step": lambda state, hparams, batch: state * (1 - hparams["lr"]),
    "outer_loss": lambda state, hparams: state**2,
}
_TASK = tasks.Quadratic(horizon=4)
_TASKS: tuple[str, ...] = (
    "CharGRU",
    "Cleaning",
    "Digits",
    "DigitsChoices",
    "LearningRateSchedule",
)
_TASKS += ("Logistic", "NoisyQuadratic", "Quadratic", "Surface", "Throw")
_FAMILIES: tuple[Callable[..., Any], ...] = (
    data.Sinusoid,
    data.LinearClassifiers,
    data.DigitBatches,
)
_FAMILIES += (data.DigitFunctions, data.PhotographFunctions)
_NONE: Arguments = {}
#: Likewise of what is fuzzed alone: it takes longer, or looks at what it is given.
MORE: dict[str, dict[Callable[..., Any], Arguments]] = {
    "problems": {
        raymeta.BilevelProblem: _PROBLEM,
        raymeta.descent: {
            "init_params": lambda hparams: {"w": torch.ones(())},
            "inner_loss": lambda params, hparams, batch: params["w"] ** 2,
            "outer_loss": lambda params, hparams: params["w"] ** 2,
            "optimizer": lambda hparams: optim.sgd(hparams["lr"]),
        },
        raymeta.module_problem: MODULE
        | {"train": _DATA, "val": _DATA, "batch_size": 2}
        | {"optimizer": lambda hparams: optim.sgd(hparams["lr"])},
        raymeta.hypergradient: {
            "problem": raymeta.BilevelProblem(**_PROBLEM),
            "hparams": {"lr": torch.tensor(0.1)},
            "estimator": hypergrad.Reverse(3),
        },
    },
    "online optimizers": {
        kind: {"params": [nn.Parameter(torch.ones(2))]}
        for kind in (online.SGD, online.Adam, online.AdamW, online.Muon, online.OSGM)
    },
    "tasks": {getattr(tasks, name): {} for name in _TASKS},
    "families": {**dict.fromkeys(_FAMILIES, _NONE), data.few_shot_digits: {}},
    "runs": {
        raymeta.optimize: {"task": _TASK, "estimator": "reverse", "budget": 10},
        raymeta.compare: {"tasks": _TASK, "methods": "random", "budget": 10}
        | {"seeds": 1},
        raymeta.diagnose: {"task": _TASK},
        recipe: {"algorithm": "maml", "family": "sinusoid"},
    },
}


def _values() -> st.SearchStrategy[Any]:
    """What strangers give: all of `VALUES`, any number and text, nested."""
    # hypothesis prints what it chooses from.
    printable = [value for value in VALUES if not isinstance(value, Unprintable)]
    plain = st.one_of(
        st.sampled_from(printable),
        st.builds(Unprintable),
        st.floats(),
        st.integers(),
        st.text(max_size=9),
    )
    nested = st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=4,
    )
    return plain | nested


def _calls(right: Mapping[Callable[..., Any], Arguments]) -> st.SearchStrategy[Any]:
    """(what is called, arguments of which one to three are anything)."""

    def arguments(call: Callable[..., Any]) -> st.SearchStrategy[Any]:
        named = [
            name
            for name, parameter in inspect.signature(call).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        if not named:
            return st.just((call, {}))
        some = st.dictionaries(
            st.sampled_from(named), _values(), min_size=1, max_size=3
        ).filter(_is_small)
        return some.map(lambda given: (call, right[call] | given))

    return st.sampled_from(list(right)).flatmap(arguments)


def _is_small(given: Arguments) -> bool:
    """Whether no size among the arguments is one that takes minutes or the memory."""
    return all(
        max(_sizes(given[name]), default=0) <= LARGEST for name in SIZES & {*given}
    )


def _sizes(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [size for each in value for size in _sizes(each)]
    is_size = isinstance(value, RealNumber) and math.isfinite(value)
    return [abs(value)] if is_size else []


def _wrong(case: tuple[Callable[..., Any], Arguments]) -> str:
    call, given = case
    made, wrong = refusal(lambda: call(**given))
    return wrong or ("" if made is None else _silently(made, given))


def _silently(made: Any, given: Arguments) -> str:
    """What single precision made of a value without a word: 0, ∞, or NaN."""
    if isinstance(made, Positive | Unit | Real):
        start = made.start(torch.float32)
        back = made.natural(made.unconstrained(start))
        ends = torch.tensor([made.low, made.high], dtype=torch.float64)
        if not bool(torch.isfinite(start).all() and torch.isfinite(back).all()):
            return f"silently not finite: {type(made).__name__} starts at {start}"
        if isinstance(made, Positive | Unit) and bool((back == 0).any()):
            return "silently 0: a start that is inside (0, …)"
        if bool(((ends != 0) & ends.isfinite() & (ends.float() == 0)).any()):
            return "silently 0: a bound"
    if isinstance(made, optim.Optimizer):
        for name, value in given.items():
            if type(value) is float and name not in _FLAGS and not _is_held(value):
                return f"silently not as given: {name}"
    if type(made) in MORE["tasks"]:
        return refusal(lambda: tasks.resolve(made))[1]
    if hasattr(made, "episodes"):
        one = {"seed": 0, "split": "train"}
        return refusal(lambda: made.episodes(0, 1, 0, 1, **one))[1]
    return ""


def _is_held(value: float) -> bool:
    """Whether single precision holds a number as other than 0 or infinity."""
    if value == 0 or not math.isfinite(value):
        return True
    held = float(torch.tensor(value, dtype=torch.float32))
    return held != 0 and math.isfinite(held)


def _spaces() -> st.SearchStrategy[Any]:
    """Arguments of `Space`: domains among anything, conditions of any form."""
    domain = st.sampled_from(
        [Positive(0.1), Unit(0.5), Real([0.0, 1.0], shape=(2,)), Choice(("a", 1, None))]
    )
    domains = st.dictionaries(
        st.text(max_size=4).filter(lambda name: name != "when"),
        domain | _values(),
        max_size=3,
    )
    when = st.fixed_dictionaries({}, optional={"when": _values()})
    return st.tuples(domains, when).map(lambda both: both[0] | both[1])


def _wrong_space(domains: Arguments) -> str:
    space, wrong = refusal(lambda: Space(**domains))
    if wrong or space is None:
        return wrong
    point, wrong = refusal(lambda: space.point(space.initial()))
    return wrong or refusal(lambda: space.hparams(space.parse(point)))[1]


def _wrong_run(case: tuple[Callable[..., Any], Arguments]) -> str:
    """A run, of which the trials of a comparison run here."""
    with in_process.comparisons():
        return _wrong(case)


def _of(right: Mapping[Callable[..., Any], Arguments], about: str) -> Surface:
    return Surface(about, _calls(right), _wrong)


SURFACES = {
    "domains": _of(RIGHT_OF["domains"], "Positive, Unit, Real, Choice"),
    "spaces": Surface("Space, its points and conditions", _spaces(), _wrong_space),
    "optimizers": _of(RIGHT_OF["optimizers"], "raymeta.optim"),
    "online": _of(MORE["online optimizers"], "raymeta.online"),
    "estimators": _of(RIGHT_OF["estimators"], "raymeta.hypergrad"),
    "problems": _of(MORE["problems"], "BilevelProblem, module_problem, hypergradient"),
    "learners": _of(RIGHT_OF["learners"], "raymeta.meta"),
    "methods": _of(RIGHT_OF["methods"], "methods of searches and descents"),
    "training": _of(RIGHT_OF["training"], "TrainConfig"),
    "tasks": _of(MORE["tasks"], "raymeta.tasks"),
    "families": _of(MORE["families"], "raymeta.data"),
    "runs": Surface(
        "optimize, compare, diagnose, recipe", _calls(MORE["runs"]), _wrong_run
    ),
}
