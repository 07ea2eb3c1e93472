"""Arguments of every kind to every constructor: taken, or refused in one line."""

import inspect
from functools import partial

import pytest
import torch

from jobs.experiments.fuzzing.constructors import EXTREME, RIGHT, SIZES, VALUES
from jobs.experiments.fuzzing.surface import refusal
from raymeta import hypergrad, optim
from raymeta.space import Positive, Real, Unit


@pytest.mark.parametrize("call", RIGHT, ids=lambda call: call.__name__)
def test_arguments_are_taken_or_refused_in_one_line(call):
    for name in inspect.signature(call).parameters:
        for value in VALUES:
            if name in SIZES and any(value is extreme for extreme in EXTREME):
                continue  # as much memory as that, or beyond float32
            _, wrong = refusal(partial(call, **RIGHT[call] | {name: value}))
            assert not wrong, f"{name} of type {type(value)}: {wrong}"


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
