"""Reversible runs: momentum descent in fixed point, forwards and backwards."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.hypergrad.fixed_precision import (
    MAGNITUDE_BITS,
    InformationBuffer,
    factor,
    from_units,
    grow,
    shrink,
    to_units,
)
from raymeta.optim import HeavyBall, Optimizer
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.types import Batch, Hparams, Tensors


class Stored(NamedTuple):
    """What retracing a run takes besides its last state.

    Attributes:
        bits: per parameter and step; log2(1/μ) is the least possible. Words are set
            aside for all parameters as soon as one fills its own, so that the smallest
            μ counts where they differ.
        ratio: what the weights of every step would take as floats, over that.
        bytes: memory of the buffer at the end of the run.
    """

    bits: float
    ratio: float
    bytes: int


class RetracedRun:
    r"""SGD with momentum, all weights in one vector of integers.

    $$ v_{t+1} = \mu_t v_t + f_t,\quad w_{t+1} = w_t - \alpha_t v_{t+1},\qquad
       w_t = w_{t+1} + \alpha_t v_{t+1},\quad v_t = (v_{t+1} - f_t) / \mu_t $$

    with $f_t = f(\nabla_w L(w_t, \lambda, b_t), w_t, \lambda)$; see `HeavyBall`.

    Args:
        problem: what is trained.
        hparams: λ; graphs of a step lead to its leaves.
        s_0: the initial state.
        bits: binary digits after the point.

    Attributes:
        w: w_t in units of 2^-bits, int64, shape (N,).
        v: v_t, likewise.
        buffer: what v lost in being multiplied by μ.

    Raises:
        ValueError: the problem's steps have no inverse.
        OverflowError: an initial weight is out of range.
    """

    def __init__(
        self, problem: BilevelProblem, hparams: Hparams, s_0: TrainState, bits: int
    ) -> None:
        self._descent = require_inverse(problem, hparams)
        self._problem, self._hparams, self._bits = problem, hparams, bits
        self._params, self._buffers = s_0.params, s_0.buffers
        self._zero = {name: torch.zeros_like(p) for name, p in s_0.params.items()}
        w_0, v_0 = _join(s_0.params), _join(self._rule()[1].velocity(s_0.memory))
        self._require_range(0, weight=w_0, velocity=v_0)
        self.w = self._w_0 = to_units(w_0, bits)
        self.v = self._v_0 = to_units(v_0, bits)
        self.buffer = InformationBuffer(self.v)

    def forward(self, t: int) -> None:
        """(w_{t+1}, v_{t+1}) from (w_t, v_t).

        Raises:
            OverflowError: a number is out of range.
            ValueError: a momentum is outside [0, 1]; a buffer changed.
        """
        batch = self._problem.batch(t)
        alpha, mu = self._rates(batch)
        f = self._force(batch, self._floats(self.w))[1]
        shrunk = shrink(self.v, factor(mu), self.buffer)
        self.v = shrunk + to_units(f, self._bits)
        v = from_units(self.v, self._bits)
        self.w = self.w - to_units(alpha * v, self._bits)
        w = from_units(self.w, self._bits)
        self._require_range(t, gradient=f, velocity=v, update=alpha * v, weight=w)

    def backward(self, t: int) -> tuple[TrainState, TrainState]:
        """(w_t, v_t) from (w_{t+1}, v_{t+1}).

        Returns:
            s_t, of leaves, and s_{t+1} as `Optimizer.update` computes it from them.
        """
        batch = self._problem.batch(t)
        alpha, mu = self._rates(batch)
        self.w = self.w + to_units(alpha * from_units(self.v, self._bits), self._bits)
        w = self._floats(self.w)
        grads, f = self._force(batch, w)
        shrunk = self.v - to_units(f, self._bits)
        self.v = grow(shrunk, factor(mu), self.buffer)
        v = self._floats(self.v)
        rule, inverse = self._rule()
        before = TrainState(w, inverse.memory(v, batch.index), self._buffers)
        after = rule.update(grads, before.memory, w, batch.index)
        return before, TrainState(*after, self._buffers)

    def state(self, t: int) -> TrainState:
        """s_t, of leaves."""
        w, v = self._floats(self.w), self._floats(self.v)
        memory = self._rule()[1].memory(v, self._problem.batch(t).index)
        return TrainState(w, memory, self._buffers)

    def parts(self, state: TrainState) -> list[Tensor]:
        """The weights and the velocities."""
        velocity = self._rule()[1].velocity(state.memory)
        return [*state.params.values(), *velocity.values()]

    def stored(self, steps: int) -> Stored:
        """What is stored now, after this many steps from the start."""
        bits = self.buffer.bits / steps
        floats = sum(p.numel() * p.element_size() for p in self._params.values())
        ratio = 8 * floats / self.w.numel() / bits if bits else math.inf
        return Stored(bits, ratio, self.buffer.bytes)

    def require_start(self) -> None:
        """Check that the run is back where it started.

        Raises:
            RuntimeError: it is not.
        """
        back = torch.equal(self.w, self._w_0) and torch.equal(self.v, self._v_0)
        if not (back and self.buffer.empty):
            raise RuntimeError(
                "Reversible did not come back to the initial weights: a gradient "
                "differed when it was computed again. Make batch(t) and the inner loss "
                "deterministic (torch.use_deterministic_algorithms(True))"
            )

    def _rule(self) -> tuple[Optimizer, HeavyBall]:
        # Anew for each step: the graph of what it computes from λ serves only once.
        rule = self._descent.rule(self._hparams)
        assert rule.heavy_ball is not None
        return rule, rule.heavy_ball

    def _force(self, batch: Batch, w: Tensors) -> tuple[Tensors, Tensor]:
        """The gradient at w in a graph; f_t without one, float64, shape (N,).

        Forwards the graph is not needed, but the same call runs the same kernels.
        """
        grads, buffers = self._descent.gradient(w, self._buffers, self._hparams, batch)
        for name, buffer in self._buffers.items():
            if not torch.equal(buffer, buffers[name]):
                raise ValueError(
                    f"Reversible undoes weights and velocities, but buffer {name!r} "
                    "changes in training too: use Checkpointed, or a module without "
                    "running statistics"
                )
        rule, inverse = self._rule()
        still = inverse.memory(self._zero, batch.index)
        memory = rule.update(detach(grads), still, detach(w), batch.index)[1]
        return grads, _join(inverse.velocity(memory))

    def _rates(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """α_t and μ_t, float64; shape () where one holds for all weights, else (N,)."""
        rates = self._rule()[1].rates(batch.index)
        alpha, mu = zip(*[rates(name) for name in self._params], strict=True)
        return self._spread(alpha), self._spread(mu)

    def _spread(self, values: tuple[float | Tensor, ...]) -> Tensor:
        device, params = self.w.device, self._params.values()
        each = [torch.as_tensor(x, device=device).detach().double() for x in values]
        if all(x.numel() == 1 for x in each):
            together = torch.stack([x.reshape(()) for x in each])
            if bool((together == together[0]).all()):
                return together[0]
        whole = [x.expand(p.shape).flatten() for x, p in zip(each, params, strict=True)]
        return torch.cat(whole)

    def _floats(self, c: Tensor) -> Tensors:
        """Fixed point as the parameters' own floats, leaves of a new graph."""
        params = self._params
        parts = from_units(c, self._bits).split([p.numel() for p in params.values()])
        return {
            name: part.view(p.shape).to(p.dtype).requires_grad_()
            for (name, p), part in zip(params.items(), parts, strict=True)
        }

    def _require_range(self, t: int, **values: Tensor) -> None:
        limit = 2.0 ** (MAGNITUDE_BITS - self._bits)
        largest = torch.stack([x.abs().amax() for x in values.values()]).tolist()
        for name, value in zip(values, largest, strict=True):
            if not value < limit:  # nor where it is NaN
                raise OverflowError(
                    f"Reversible with fractional_bits={self._bits} holds numbers below "
                    f"{limit:g}, but the largest {name} is {value:g} at step {t}: use "
                    "fewer fractional_bits (one less doubles the range), or, if "
                    "training diverges, a smaller lr"
                )


def require_inverse(problem: BilevelProblem, hparams: Hparams) -> Descent:
    """The problem's step, which can be undone.

    Raises:
        ValueError: it cannot; says what it lacks.
    """
    if not isinstance(problem.step, Descent):
        raise ValueError(
            "Reversible needs a problem whose step is a `Descent`, as of descent() and "
            f"module_problem(), but got {problem.step}: use Checkpointed"
        )
    if problem.step.rule(hparams).heavy_ball is None:
        raise ValueError(
            "Reversible needs an optimizer whose update has an inverse, as that of sgd "
            "with momentum (a tensor where it may be 0) and without nesterov, but the "
            "one of this problem has none: use Checkpointed"
        )
    return problem.step


def require_real_weights(params: Tensors) -> None:
    """Raise ValueError where a weight is complex: it has no place in fixed point."""
    for name, p in params.items():
        if p.is_complex():
            raise ValueError(
                f"Reversible needs real weights, but {name!r} is {p.dtype}: use "
                "Checkpointed"
            )


def _join(tensors: Tensors) -> Tensor:
    return torch.cat([x.detach().flatten().double() for x in tensors.values()])
