"""Objects on one line, as tables of notebooks, and as figures."""

import math

import matplotlib.figure
import pytest
import torch

import raymeta
from raymeta import display
from raymeta.hypergrad import Hypergradient, Rollout
from raymeta.meta import MetaOutput
from raymeta.space import Choice, Positive, Real, Space, Unit


@pytest.fixture(scope="module")
def result():
    return raymeta.optimize("quadratic", budget=200, progress=False)


def wide() -> Space:
    """Of more hyperparameters than a line has room for."""
    many = {f"lr{i}": Positive(0.1 + i, low=1e-3) for i in range(40)}
    start = torch.linspace(-1, 1, 900).tolist()
    return Space(
        **many,
        weight=Real(start, shape=(900,)),
        rate=Unit(0.5),
        rule=Choice(("a", "b")),
        when={"rate": {"rule": "a"}},
    )


def hypergradient() -> Hypergradient:
    grads = {"lr": torch.tensor(-1.25), "weight": torch.linspace(0, 1, 5000)}
    return Hypergradient(torch.tensor(0.5), grads, 40.0)


def diagnosis():
    return raymeta.diagnose("quadratic")


@pytest.mark.parametrize("make", [wide, hypergradient, diagnosis])
def test_they_are_short_and_have_tables_and_figures(make):
    each = make()
    assert len(repr(each)) < 1000
    assert "\n" not in repr(each)
    assert each._repr_html_().count("<table") == 1
    figure = each.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.canvas.draw()


def test_a_result_says_what_was_found(result):
    text = repr(result)
    assert text.startswith("Result('quadratic' by Auto, seed 0: outer_loss=")
    assert f"(start {result.start_loss:.5g})" in text
    assert len(text) < 300
    assert f"{float(result.hparams['lr']):.5g}" in result._repr_html_()
    loss, hparams = result.plot().axes
    (best,) = (line for line in loss.lines if line.get_label() == "best")
    assert best.get_ydata()[-1] == pytest.approx(result.outer_loss)
    assert {line.get_label() for line in hparams.lines} == set(result.hparams)


def test_a_space_is_told_apart_by_its_description():
    one, other = wide(), wide()
    assert one.description() == other.description()
    changed = Space(weight=Real([0.0] * 899 + [1e-9], shape=(900,)))
    plain = Space(weight=Real([0.0] * 900, shape=(900,)))
    assert repr(changed) == repr(plain)
    assert changed.description() != plain.description()
    assert repr(Space(lr=Unit(0.5))) == Space(lr=Unit(0.5)).description()


def test_numbers_in_a_few_words():
    assert display.short(torch.tensor([1.0, 2.5])) == "[1, 2.5]"
    assert display.short(torch.arange(6.0).view(2, 3)) == "2x3 from 0 to 5"
    assert display.short(torch.ones(0, 3)) == "0x3 of nothing"
    assert display.short(0.123456789) == "0.12346"
    assert "… and 8 more" in display.entries({str(i): i for i in range(20)})
    assert "<script>" not in display.table("<script>", {"<script>": "<script>"})
    flat = display.flat({"a": torch.ones(2), "b": 3, "c": "x"})
    assert (flat["a[1]"], flat["b"]) == (1.0, 3.0)
    assert math.isnan(flat["c"])


def test_states_are_counted_rather_than_printed():
    state = {"weight": torch.randn(300, 300), "bias": torch.randn(9)}
    assert repr(Rollout(state, 7)) == "Rollout(step=7, a state of 2 tensors)"
    losses = torch.arange(50.0)
    output = MetaOutput(losses.mean(), losses, {"accuracy": losses})
    assert repr(output).startswith("MetaOutput(loss=24.5, losses=50 from 0 to 49, acc")
