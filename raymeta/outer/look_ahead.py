"""Look-ahead lengths of an online descent, from how far longer looks agree."""

from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar

import torch

from raymeta.hypergrad import Hypergradient, Rollout, ShortTerm
from raymeta.hypergrad.base import with_steps
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

#: A look that is compared goes so many times as far as the others.
LONGER = 4
#: Every so manieth short look is followed by one of these.
EVERY = 10
#: Looks are twice as long after a run in which the median of agreements was less than
#: the first, and half as long after one in which it was more than the second.
LEAST, MOST = 0.25, 0.75
# On 12 tuning tasks × seeds of 30 runs this led to a better point on 1, to worse ones
# on 3, and mattered little elsewhere (mean of ln E + .007): so it is an option. In all
# runs, whether they were better or not, it led to better ones on 3 and worse ones on 7
# (+ .052): from bad starts many short hyper-steps lead far.
#: The longest is this part of a run: fewer hyper-steps than it has such parts lead
#: nowhere.
PARTS = 8


@dataclass(frozen=True)
class ComparedLooks:
    """A look ahead, and how far a shorter one from the same place agrees with it.

    The short one is what that costs: training goes on from the end of the longer.
    `Hypergradient.residual` is the share of scalar hyperparameters whose derivative has
    the other sign in the short one: 0 where both agree.

    Attributes:
        short: the short look.
        steps: training steps of the longer one.
    """

    short: ShortTerm
    steps: int
    continues: ClassVar[bool] = True

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """The start of a training run at λ."""
        return self.short.init(problem, hparams)

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """DE/dλ of the longer look; the rollout goes on from its end."""
        short, _ = self.short.estimate(problem, hparams, rollout)
        hyper, ahead = self._long.estimate(problem, hparams, rollout)
        products = torch.cat(
            [
                (grad.sign() * short.grads[name].sign()).reshape(-1)
                for name, grad in hyper.grads.items()
            ]
        )
        opposite = float((products < 0).double().mean())
        evals = hyper.gradient_evals + short.gradient_evals
        return hyper._replace(gradient_evals=evals, residual=opposite), ahead

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """Of both."""
        return self._long.cost(problem, hparams) + self.short.cost(problem, hparams)

    @property
    def _long(self) -> ShortTerm:
        return with_steps(self.short, self.steps)


@dataclass(frozen=True)
class LookAhead:
    """How far a run looks ahead, and when it compares.

    Looks that see too little of what λ does to the end of training point elsewhere
    than longer ones. So runs compare after one that was no better than the best, until
    one is; and after each of these that is no better, looks get longer where short and
    long ones disagree, and shorter, which leaves more hyper-steps, where they agree.

    Attributes:
        steps: K, training steps of a look.
        shortest: the least K.
        horizon: T.
        compares: whether the run compares.

    Source: Wu et al. 2018, "Understanding short-horizon bias in stochastic
    meta-optimization", for what is wrong with short ones; the rule is raymeta's own.
    """

    steps: int
    shortest: int
    horizon: int
    compares: bool = False

    def length(self, t: int, end: int) -> int:
        """Training steps of the look at step t; a longer one is compared."""
        k = self.steps
        due = self.compares and t % (EVERY * k) == EVERY * k // 2
        due = due and t + LONGER * k <= end
        return LONGER * k if due else min(k, end - t)

    def after(self, better: bool, agreements: list[float]) -> "LookAhead":
        """Of the next run.

        Args:
            better: whether the last one was better than the best before it.
            agreements: 1 - 2 r of each comparison of that run, with r its
                `Hypergradient.residual`: from -1 to 1.
        """
        if better or not agreements:
            return replace(self, compares=not better)
        agreement, steps = median(agreements), self.steps
        if agreement < LEAST:
            longest = max(self.shortest, self.horizon // PARTS)
            steps = min(2 * steps, longest)
        elif agreement > MOST:
            steps = max(steps // 2, self.shortest)
        return replace(self, steps=steps)
