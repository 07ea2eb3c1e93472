"""λ with its options as one vector, and back."""

import pytest
import torch

from raymeta.outer.mixed_coordinates import APART, MixedCoordinates
from raymeta.space import Choice, Positive, Real, Space, Unit

pytestmark = pytest.mark.usefixtures("float64")

SPACE = Space(
    lr=Positive(0.1, low=1e-3, high=1.0, shape=(2,)),
    momentum=Unit(0.5, low=0.1, high=0.9),
    beta1=Unit(0.8, low=0.1, high=0.95),
    rule=Choice(("adam", "sgd", None), initial="sgd"),
    nesterov=Choice((False, True)),
    only=Choice((3,)),
    when={
        "momentum": {"rule": "sgd"},
        "beta1": {"rule": "adam"},
        "nesterov": {"rule": "sgd"},
    },
)


@pytest.fixture
def mixed():
    return MixedCoordinates(SPACE)


def test_the_start_is_that_of_the_space(mixed):
    hparams = mixed.hparams(mixed.start())
    assert mixed.dimensions == 4 + 2
    assert {k: v for k, v in hparams.items() if k not in ("lr", "momentum")} == {
        "rule": "sgd",
        "nesterov": False,
        "only": 3,
    }
    assert hparams["lr"].tolist() == pytest.approx([0.1, 0.1])
    assert float(hparams["momentum"]) == pytest.approx(0.5)


def test_what_options_do_not_use_is_left_out_and_stands_at_its_start(mixed):
    x = mixed.project(mixed.start() + 0.3)
    adam = mixed.with_option(x, "rule", 0)
    assert set(mixed.hparams(adam)) == {"lr", "beta1", "rule", "only"}
    moved = mixed.with_option(mixed.with_option(x, "nesterov", 1), "rule", 0)
    assert torch.equal(adam, moved)
    assert mixed.used(adam).tolist() == [True, True, False, True] + 5 * [False]
    assert adam[2] == mixed.start()[2]
    assert adam[4:7].tolist() == [APART, 0.0, 0.0]
    neither = mixed.hparams(mixed.with_option(x, "rule", 2))
    assert set(neither) == {"lr", "rule", "only"}


def test_many_rows_are_made_canonical_as_each_alone(mixed):
    rows = torch.randn(40, 9, generator=torch.Generator().manual_seed(0)) * 0.1
    rows += mixed.start()
    rows[:, 4:] = torch.rand(40, 5, generator=torch.Generator().manual_seed(1))
    together = mixed.canonical(rows)
    assert torch.equal(
        together, torch.stack([mixed.canonical(r[None])[0] for r in rows])
    )
    assert torch.equal(mixed.canonical(together), together)
    assert len({str(mixed.point(x)["rule"]) for x in together}) == 3


def test_the_gradient_is_the_chain_rule_where_used_and_zero_elsewhere(mixed):
    x = mixed.with_option(mixed.start() + 0.2, "rule", 0)
    hparams = {k: v for k, v in mixed.hparams(x).items() if isinstance(v, torch.Tensor)}
    grads = {name: torch.full_like(value, 3.0) for name, value in hparams.items()}
    beta1 = float(hparams["beta1"])
    expected = [*(3 * hparams["lr"]).tolist(), 0.0, 3 * beta1 * (1 - beta1)]
    assert mixed.gradient(x, grads).tolist() == pytest.approx(expected + 5 * [0.0])


def test_shares_of_each_side_reach_both_bounds_and_every_option(mixed):
    shares = torch.tensor([[0.0] * 6, [1 - 1e-12] * 6, [0.5] * 6]).double()
    low, high, middle = (mixed.hparams(x) for x in mixed.at_shares(shares))
    assert (low["rule"], middle["rule"], high["rule"]) == ("adam", "sgd", None)
    assert middle["nesterov"] is True
    assert low["lr"].tolist() == pytest.approx([1e-3, 1e-3])
    assert high["lr"].tolist() == pytest.approx([1.0, 1.0])
    assert float(low["beta1"]) == pytest.approx(0.1)


def test_half_of_the_rows_may_have_another_option(mixed):
    rows = mixed.start().repeat(200, 1)
    moved = mixed.canonical(mixed.beside(rows, torch.Generator().manual_seed(0)))
    others = (moved != rows).any(1)
    assert 40 < int(others.sum()) <= 100
    kinds = {tuple(mixed.point(x).items()) for x in moved}
    assert len(kinds) == 4  # the start, two other rules, and the other nesterov


def test_without_choices_it_is_the_walk_and_without_a_walk_the_options():
    walk = MixedCoordinates(Space(x=Real(1.0, low=0.0, high=8.0)))
    assert walk.start().tolist() == [1.0]
    rows = torch.randn(3, 1).double()
    assert walk.beside(rows, torch.Generator()) is rows
    options = MixedCoordinates(Space(a=Choice((1, 2)), b=Choice(["", "y"])))
    assert options.hparams(options.with_option(options.start(), "a", 1))["a"] == 2
    assert not options.used(options.start()).any()


def test_a_point_has_its_x(mixed):
    x = mixed.project(mixed.start() + 0.3)
    for name, number in (("rule", 0), ("rule", 2), ("nesterov", 1)):
        one = mixed.with_option(x, name, number)
        assert torch.allclose(mixed.at(mixed.point(one)), one)
