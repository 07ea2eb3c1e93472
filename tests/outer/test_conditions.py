"""Hyperparameters that the present options do not use."""

from dataclasses import replace

import pytest
import torch

from raymeta import hypergradient, optimize
from raymeta.hypergrad import (
    ES,
    PES,
    Checkpointed,
    Forward,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
)
from raymeta.hypergrad.used_hparams import Read, read
from raymeta.optim import adam, sgd
from raymeta.outer import descend
from raymeta.outer.conditions import conditioned, seen_by
from raymeta.outer.replay import loss_curve, replay
from raymeta.problem import descent, known
from raymeta.space import Choice, Positive, Space, Unit
from raymeta.testing.truth import largest_relative_error, run_differences
from tests.support.either import Either

pytestmark = pytest.mark.usefixtures("float64")

#: What the options of `Either` use.
USED = {
    "sgd": ["optlr", "momentum", "opt", "nesterov"],
    "adam": ["optlr", "beta1", "opt"],
}


def tensors(hparams):
    return {k: v for k, v in hparams.items() if isinstance(v, torch.Tensor)}


# ----------------------------------------------------------------- what a problem reads


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda h: h["a"], {"a"}),
        (lambda h: h.get("a"), {"a"}),
        (lambda h: "a" in h, {"a"}),
        (lambda h: h.get("z"), {"z"}),
        (lambda h: h.pop("b"), {"b"}),
        (lambda h: {**h}, {"a", "b"}),
        (lambda h: dict(h), {"a", "b"}),
        (lambda h: h | {"c": 1}, {"a", "b"}),
        (lambda h: {"c": 1} | h, {"a", "b"}),
        (lambda h: h.copy(), {"a", "b"}),
        (lambda h: [*h.values(), *h.items()], {"a", "b"}),
        (lambda h: len(h), set()),
    ],
)
def test_who_asks_for_a_name_is_seen(ask, names):
    seen = Read({"a": 1, "b": 2})
    ask(seen)
    assert seen.names == names


@pytest.mark.parametrize("opt", USED)
@pytest.mark.parametrize(
    "estimator",
    [
        *(Reverse(9), Checkpointed(9, 3), Forward(9), ShortTerm(9), Truncated(9, 9)),
        Reversible(9),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_is_not_used_has_derivative_zero(estimator, opt):
    task = Either()
    problem = task.sample(0)
    if opt == "adam" and isinstance(estimator, Reversible):
        return  # it has no inverse
    for other in ("sgd", opt):
        hparams = task.space.initial() | {"opt": other}
        found = hypergradient(problem, hparams, estimator).grads
        truth = run_differences(problem, hparams, 9)
        unused = set(tensors(hparams)) - set(USED[other])
        assert list(found) == list(tensors(hparams))
        for name in unused:
            assert found[name].shape == hparams[name].shape
            assert not found.pop(name).any()
            assert not truth.pop(name).any()
        assert largest_relative_error(found, truth) < 1e-6


@pytest.mark.parametrize("estimator", [ES(9, 0.1, 2), PES(9, 0.1, 2)], ids=str)
def test_noise_is_not_taken_for_a_derivative(estimator):
    problem, hparams = Either().sample(0), Either().space.initial()
    grads = hypergradient(problem, hparams, estimator).grads
    assert float(grads["beta1"]) == 0.0
    assert grads["momentum"].any()


def parabola(optimizer):
    return descent(
        init_params=lambda h: {"w": torch.zeros(2)},
        inner_loss=lambda params, h, batch: (params["w"] - 1).square().sum(),
        outer_loss=lambda params, h: (params["w"] - 2).square().sum(),
        optimizer=optimizer,
    )


LR = {"lr": torch.tensor(0.1, dtype=torch.float64), "kind": "a"}


def test_what_is_read_and_lost_is_no_zero():
    problem = parabola(lambda h: sgd(h["lr"], momentum=h["momentum"].item()))
    hparams = LR | {"momentum": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=r"'momentum'.*\.item\(\).*when=") as error:
        hypergradient(problem, hparams, Reverse(3))
    assert "\n" not in str(error.value)


def test_without_options_or_without_any_that_is_read_all_are_meant_to_be_used():
    hparams = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.5)}
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'moment"):
        hypergradient(parabola(lambda h: sgd(h["lr"])), hparams, Reverse(3))
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'lr'"):
        hypergradient(parabola(lambda h: sgd(0.1)), LR, Reverse(3))


def late(ask):
    """Steps that ask for something else in the end."""
    problem = parabola(lambda h: sgd(h["lr"]))

    def step(state, h, batch):
        rate = ask(h) if int(batch.index) else h["lr"]
        return replace(problem.step, optimizer=lambda _: sgd(rate))(state, h, batch)

    return replace(problem, step=step)


@pytest.mark.parametrize(
    "ask",
    [
        lambda h: h["late"],
        lambda h: known(h)["late"],
        lambda h: h.get("late", 0.5),
        lambda h: {"late": 0.5, **h}["late"],
    ],
    ids=["plain", "known", "get", "copy"],
)
def test_a_later_step_may_ask_for_more(ask):
    hparams, problem = LR | {"late": torch.tensor(0.2)}, late(ask)
    assert read(problem, hparams) == {"lr"}
    assert read(problem, hparams, 3) >= {"lr", "late"}
    grads = hypergradient(problem, hparams, Reverse(3)).grads
    assert largest_relative_error(grads, run_differences(problem, hparams, 3)) < 1e-6


class Late:
    name, horizon, budget = "late", 3, 60.0
    space = Space(lr=Positive(0.1), late=Positive(0.2), kind=Choice(("a", "b")))

    def sample(self, seed):
        return late(lambda h: h["late"] if h["kind"] == "b" else h["lr"])


def test_what_is_used_late_is_found_as_well():
    assert conditioned(Late()).space.when == {"late": {"kind": ("b",)}}


def test_a_name_that_lambda_lacks_is_said():
    problem = parabola(lambda h: sgd(h["learning_rate"]))
    with pytest.raises(ValueError, match="unknown hyperparameter 'learning_rate': di"):
        hypergradient(problem, {"learning_rat": torch.tensor(0.1)}, Reverse(3))


# --------------------------------------------------------------------- found by looking


@pytest.mark.parametrize("opt", USED)
def test_conditions_are_found_and_are_those_that_one_would_declare(opt):
    found, said = conditioned(Either(opt=opt)), Either(opt=opt, declared=True)
    assert found.space.when == said.space.when
    assert (found.name, found.horizon) == ("either", 9)
    assert repr(found) == repr(Either(opt=opt))
    assert conditioned(said) is said


class Plain:
    """A task of these domains and this rule."""

    name, horizon, budget = "plain", 3, 100.0

    def __init__(self, rule, **domains):
        self.rule, self.space = rule, Space(**domains)

    def sample(self, seed):
        return parabola(self.rule)


def rule(h):
    if h["opt"] == "a":
        return sgd(h["lr"])
    return adam(h["lr"], betas=(h["b"] if h["more"] else 0.9, 0.999))


DOMAINS = {
    "lr": Positive(0.1),
    "b": Unit(0.5),
    "opt": Choice(("a", "c", "d")),
    "more": Choice((False, True)),
}


def test_a_choice_may_itself_depend_on_another():
    assert conditioned(Plain(rule, **DOMAINS)).space.when == {
        "b": {"opt": ("c", "d"), "more": (True,)},
        "more": {"opt": ("c", "d")},
    }


def test_what_is_asked_for_nowhere_or_in_a_pattern_of_its_own_has_no_condition():
    task = Plain(rule, **DOMAINS, forgotten=Unit(0.5))
    assert "forgotten" not in conditioned(task).space.when
    odd = Plain(
        lambda h: sgd(h["lr"] if (h["opt"] == "a") == h["more"] else h["b"]), **DOMAINS
    )
    assert conditioned(odd) is odd
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'forgott"):
        optimize(task, Reverse(3))


def test_nobody_looks_where_there_are_too_many_combinations():
    many = {f"c{i}": Choice((0, 1)) for i in range(7)}
    task = Plain(lambda h: sgd(h["lr"]) if h["c0"] else sgd(h["b"]), **DOMAINS | many)
    assert conditioned(task) is task


def test_what_decides_what_is_trained_is_used():
    class Shaped(Plain):
        def sample_for(self, seed, choices):
            assert choices["more"] in (False, True)
            return self.sample(seed)

    assert "more" not in conditioned(Shaped(rule, **DOMAINS)).space.when


# --------------------------------------------------------------------------- descents


@pytest.mark.parametrize("declared", [False, True], ids=["found", "declared"])
@pytest.mark.parametrize(
    "estimator", [Reverse(9), Forward(9), ShortTerm(3)], ids=lambda e: type(e).__name__
)
def test_a_descent_walks_in_what_its_options_use(estimator, declared):
    task = Either(opt="adam", declared=declared)
    result = optimize(task, estimator)
    assert set(result.hparams) == set(USED["adam"])
    assert all(set(flat) == set(USED["adam"]) for _, flat in result.schedule)
    columns = {name.removeprefix("hp/") for name in result.frame.filter(like="hp/")}
    assert columns == set(USED["adam"])
    assert float(result.hparams["beta1"]) != 0.8
    problem = task.sample(0)
    state = replay(problem, task.space, result.schedule)
    assert float(problem.outer_loss(state, {})) == result.outer_loss
    curve = loss_curve(problem, task.space, result.schedule)
    assert curve[-1] == result.outer_loss
    (again,) = descend.evaluate(problem, task.space, result.schedule[-1][1], [9])
    assert set(again.hparams) == set(USED["adam"])


def test_both_ways_of_saying_it_descend_alike():
    one, other = (optimize(Either(declared=d), Reverse(9)) for d in (False, True))
    assert one.outer_loss == other.outer_loss
    assert one.schedule == other.schedule


def test_a_lambda_that_lacks_what_is_read_is_refused():
    task = Either()
    flat = {"optlr": 0.1, "opt": "sgd", "nesterov": False}
    seen = seen_by(task.sample(0), task.space, flat)
    assert set(seen) == set(task.space) - {"beta1"}
    with pytest.raises(ValueError, match=r"'momentum\[0\]' is missing"):
        replay(task.sample(0), task.space, [(9, flat)])


def test_what_is_declared_as_unused_is_not_read():
    class Eager(Either):
        def sample(self, seed):
            def rule(h):
                both = {
                    "sgd": sgd(h["optlr"], momentum=h["momentum"][0]),
                    "adam": adam(h["optlr"], betas=(h["beta1"], 0.999)),
                }
                return both[h["opt"]]

            return parabola(rule)

    assert conditioned(Eager()).space.when == {}
    with pytest.raises(ValueError, match=r"on hyperparameter 'beta1'.*when="):
        optimize(Eager(), Reverse(9))
    message = "'either' reads hyperparameter 'beta1' at .*'sgd'.* where when= says that"
    with pytest.raises(ValueError, match=message) as error:
        optimize(Eager(declared=True), Reverse(9))
    assert "\n" not in str(error.value)
