"""Look-ahead lengths: where looks are compared, and how runs learn from that."""

import pytest
import torch

from raymeta.hypergrad import ShortTerm
from raymeta.outer.look_ahead import ComparedLooks, LookAhead
from raymeta.problem import BilevelProblem, no_data

FIRST = LookAhead(2, 2, 80, compares=True)


def test_looks_get_longer_where_longer_ones_disagree_and_shorter_where_they_agree():
    looks = [FIRST]
    for agreements in ([-1.0], [0.0, 0.2], [1.0, -1.0, 0.1], [0.5], [], [1.0], [0.8]):
        looks.append(looks[-1].after(False, agreements))
    assert [look.steps for look in looks] == [2, 4, 8, 10, 10, 10, 5, 2]
    assert all(look.compares for look in looks)


def test_they_are_never_shorter_than_the_first_nor_longer_than_a_part_of_the_run():
    assert FIRST.after(False, [1.0]) == FIRST
    assert LookAhead(1, 1, 6).after(False, [-1.0]).steps == 1


def test_nothing_is_compared_while_runs_get_better():
    look = LookAhead(2, 2, 80)
    assert not look.compares
    assert {look.length(t, 80) for t in range(0, 80, 2)} == {2}
    assert look.after(True, []) == look
    assert look.after(False, []).compares
    longer = look.after(False, []).after(False, [-1.0])
    assert longer.after(True, [-1.0]) == LookAhead(4, 2, 80)


@pytest.mark.parametrize(("steps", "horizon"), [(1, 20), (1, 60), (2, 80), (3, 100)])
def test_one_look_in_about_ten_is_compared_and_all_end_where_the_run_does(
    steps, horizon
):
    look, t, lengths = LookAhead(steps, steps, horizon, compares=True), 0, []
    while t < horizon:
        lengths.append(look.length(t, horizon))
        t += lengths[-1]
    assert t == horizon
    longer = sum(length == 4 * steps for length in lengths)
    assert 1 <= longer <= 1 + len(lengths) // 6
    assert set(lengths[:-1]) <= {steps, 4 * steps}


def turning(after):
    """E falls with λ for a while, and rises with it from a step on: s' = s ± λ."""

    def step(state, hparams, batch):
        sign = torch.where(batch.index < after, -1.0, 3.0)
        return state + sign * hparams["x"]

    return BilevelProblem(
        init=lambda hparams: torch.zeros(()),
        step=step,
        outer_loss=lambda state, hparams: state,
        batch=no_data,
    )


@pytest.mark.parametrize(("after", "opposite"), [(1, 1.0), (9, 0.0)])
def test_a_short_look_that_does_not_see_the_turn_points_elsewhere(after, opposite):
    """dE/dx over 4 steps is 8 where 3 of them turn, over one it is -1."""
    problem, hparams = turning(after), {"x": torch.tensor(0.5)}
    looks = ComparedLooks(ShortTerm(1), 4)
    hyper, ahead = looks.estimate(problem, hparams, looks.init(problem, hparams))
    assert hyper.residual == opposite
    assert float(hyper.grads["x"]) == (8.0 if opposite else -4.0)
    assert ahead.step == 4
    assert hyper.gradient_evals == looks.cost(problem, hparams)
