"""Arguments of every kind to every constructor: taken, or refused in one line."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta import hypergrad, meta, optim
from raymeta.data import Sinusoid
from raymeta.search.methods import METHODS
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.train import TrainConfig


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no text")


EXTREME = [1e-320, 1e20, 1e308, 10**30, float("inf")]
NUMBERS = [0, 1, -1, 2, 3.5, float("nan"), *EXTREME]
PLAIN = [None, True, "", "x", b"x", 1j, (), (1, 2), [], [1, [2]], {}, {"a": 1}, set()]
TENSORS = [torch.tensor(0.1), torch.ones(2), torch.ones(0), torch.tensor(1j)]
OTHERS = [np.float64(0.1), np.ones(2), np.array(["a"]), object, object(), print, ...]
OTHERS += [Unprintable(), Positive(0.1), Space(a=Real(0.0)), optim.sgd(0.1)]
VALUES = [*NUMBERS, *PLAIN, *TENSORS, *OTHERS, hypergrad.Reverse(2)]

SIZES = {"inputs", "outputs", "width", "depth", "latent", "points", "dimensions"}
SIZES |= {"epochs", "context", "lr", "frequency"}

MODULE = {"module": nn.Linear(2, 2), "loss": F.mse_loss}
#: What is called, with arguments that it takes; each is replaced by all values.
RIGHT = {kind: {"initial": 0.5} for kind in (Positive, Unit, Real)}
RIGHT |= {Choice: {"options": (1, 2)}}
RIGHT |= {getattr(optim, name): {} for name in ("adam", "adamw", "lion", "nadam")}
RIGHT |= {getattr(optim, name): {} for name in ("radam", "rmsprop", "adagrad")}
RIGHT |= {optim.sgd: {"lr": 0.1, "momentum": 0.9}, optim.adadelta: {}}
ES = {"steps": 3, "sigma": 0.1, "pairs": 2}
RIGHT |= {hypergrad.ES: ES, hypergrad.PES: ES}
RIGHT |= {hypergrad.Truncated: {"steps": 3, "window": 2}}
RIGHT |= {hypergrad.Smoothed: {"estimator": hypergrad.Reverse(3)}}
RIGHT |= {hypergrad.Combined: {"estimators": (hypergrad.Reverse(3),)}}
WHOLE = ("Reverse", "Checkpointed", "Reversible", "Forward", "Implicit", "ShortTerm")
RIGHT |= {getattr(hypergrad, name): {"steps": 3} for name in WHOLE}
RIGHT |= {hypergrad.ConjugateGradient: {}, hypergrad.FixedPoint: {"iterations": 3}}
RIGHT |= {hypergrad.Neumann: {"iterations": 3, "lr": 0.1}}
RIGHT |= {meta.Siren: {"inputs": 1, "outputs": 1}, meta.cavia: MODULE | {"context": 1}}
IMAGES = {"images": torch.ones(1, 2, 2), "labels": torch.tensor([0, 1])}
RIGHT |= {meta.distillation: MODULE | IMAGES, meta.learned_dataset: {}}
RIGHT |= {getattr(meta, name): MODULE for name in ("maml", "imaml", "reptile")}
RIGHT |= {meta.first_order: {"learner": meta.learned_dataset()}}
RIGHT |= {type(method): {} for method in METHODS.values()}
TRAINING = {"algorithm": "maml", "learner": lambda seed: meta.learned_dataset()}
TRAINING |= {"family": Sinusoid(), "outer_steps": 3, "tasks_per_step": 2}
RIGHT |= {TrainConfig: TRAINING}


def is_refused_well(call, arguments):
    """Whether it is taken, or refused in one line; what it lacks, Python says."""
    try:
        call(**arguments)
    except ValueError as error:
        return "\n" not in str(error)
    except Exception as error:
        return "required positional argument" in str(error)
    return True


@pytest.mark.parametrize("call", RIGHT, ids=lambda call: call.__name__)
def test_arguments_are_taken_or_refused_in_one_line(call):
    for name in inspect.signature(call).parameters:
        for value in VALUES:
            if name in SIZES and any(value is extreme for extreme in EXTREME):
                continue  # as much memory as that, or beyond float32
            assert is_refused_well(call, RIGHT[call] | {name: value}), (
                f"{name} of type {type(value)}"
            )


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (lambda: Positive(1e-320), "but got initial=1e-320, as float32 holds it"),
        (lambda: Unit(0.999999999999), "but got initial=0.999999999999, as float32"),
        (
            lambda: Real([0.0, 1e308], shape=(2,)),
            r"but got initial=\[0.0, 1e\+308\], as float32",
        ),
        (lambda: Positive(1.0, low=1e-320), "float32 can hold.*got low=1e-320"),
        (lambda: Real(0.0, high=1e308), r"float32 can hold.*got high=1e\+308"),
    ],
)
def test_what_single_precision_cannot_hold_is_refused(domain, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        domain()
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    if "1e-320" not in message:  # which double precision holds by halves only
        domain()


def test_steps_beyond_all_runs_are_refused_at_once():
    with pytest.raises(ValueError, match="steps <= 1,000,000,000, but got steps="):
        hypergrad.Reversible(10**20)
    with pytest.raises(ValueError, match="Reverse needs steps to be a whole number"):
        hypergrad.Reverse(100.0)
    with pytest.raises(ValueError, match="adam needs amsgrad=True or amsgrad=False"):
        optim.adam(amsgrad=torch.ones(2))
