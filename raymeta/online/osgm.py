"""Online scaled gradient method: full batches, with step sizes and momentum learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from raymeta.errors import said, unknown_name
from raymeta.online.checks import refused_in_one_line


class OSGM(torch.optim.Optimizer):
    r"""Full-batch descent whose step sizes P and heavy ball β learn, with null steps.

    $$ w^+ = w - P \nabla f(w) + \beta (w - w_-) $$

    The gradient at $w^+$, which the next step takes anyway, gives the hypergradients

    $$ \frac{\partial}{\partial P_{ii}} = -\frac{\nabla_i f(w^+) \nabla_i f(w)}
       {\|\nabla f(w)\|^2},\quad \frac{\partial}{\partial\beta} =
       \frac{\nabla f(w^+) \cdot (w - w_-)}{\|\nabla f(w)\|^2 + L \|w - w_-\|^2} $$

    along which P and β move by AdaGrad. Where f has not fallen, w stays: a null step,
    which teaches P and β all the same. Nothing is to be tuned: a short first step
    measures the curvature L along the gradient, and P starts at 1/L and moves in units
    of it. For functions without noise: training losses of batches go to
    `raymeta.online.SGD` or `Adam`.

    Args:
        params: parameters, or groups of them with `per` of their own.
        per: what has a step size of its own: "weight", "tensor" or "group".

    Raises:
        ValueError: another `per`; a loss that is not finite where training starts.

    Source: Gao et al. 2025 (2509.11007), with the AdaGrad of its OSGM-Best; scales
    from a secant in place of its grid.
    """

    #: AdaGrad's step sizes: of P in units of 1/L, and of β.
    STEP, MOMENTUM_STEP = 10.0, 1.0
    MOMENTUM, LARGEST = 0.9, 0.9995
    #: Length of the first, measuring step.
    FIRST = 1e-3
    PER: ClassVar[tuple[str, ...]] = ("group", "tensor", "weight")

    def __init__(
        self, params: Any, per: Literal["group", "tensor", "weight"] = "weight"
    ) -> None:
        with refused_in_one_line("OSGM"):
            super().__init__(params, {"per": per})
        for group in self.param_groups:
            if group["per"] not in self.PER:
                raise unknown_name("per", group["per"], self.PER)
            if any(p.is_complex() for p in group["params"]):
                raise ValueError(
                    "OSGM needs real weights, but got complex ones: give it their "
                    "torch.view_as_real, pairs of reals"
                )
        self.param_groups[0].setdefault("run", {"evaluations": 0, "null_steps": 0})

    @property
    def counts(self) -> dict[str, int]:
        """`evaluations` of the closure, and `null_steps`."""
        run = self.param_groups[0]["run"]
        return {name: run[name] for name in ("evaluations", "null_steps")}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """One trial step: one evaluation of the closure, and two more at the first.

        Returns:
            f where the step ends. `p.grad` is the gradient at the trial point.

        Raises:
            ValueError: no closure; f is not finite at the start.
        """
        if not callable(closure):
            raise ValueError(
                "OSGM.step needs a closure that zeroes the gradients, computes the "
                f"loss and its gradients, and returns it, but got {said(closure)}"
            )
        run = self.param_groups[0]["run"]
        if "f" not in run:
            self._begin(run, closure)
        states = [self.state[p] for p in self._params()]
        w, g, before = ([state[k] for state in states] for k in ("w", "g", "before"))
        moved = [a - b for a, b in zip(w, before, strict=True)]
        for p, a, b, d in zip(self._params(), w, g, moved, strict=True):
            p.copy_(a - self.state[p]["P"] * b + run["beta"] * d)
        f = self._evaluate(run, closure)
        trial = self._gradients()
        if f == f and all(x.isfinite().all() for x in trial):
            self._learn(run, trial, g, moved)
        else:
            for p in self._params():
                self.state[p]["P"] /= 2
        if f <= run["f"]:
            run["f"] = f
            for p, a, x in zip(self._params(), w, trial, strict=True):
                self.state[p] |= {"before": a, "w": p.clone(), "g": x}
        else:
            run["null_steps"] += 1
            for p, a in zip(self._params(), w, strict=True):
                p.copy_(a)
        return run["f"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: the state of another optimizer.
        """
        if "run" not in state_dict.get("param_groups", [{}])[0]:
            raise ValueError(
                "the state is of another optimizer than OSGM: load it into the class "
                "that saved it"
            )
        super().load_state_dict(state_dict)

    def _begin(self, run: dict[str, Any], closure: Callable[[], Any]) -> None:
        """Evaluate f and its gradient at the start, and the curvature along it."""
        f = self._evaluate(run, closure)
        w, g = [p.clone() for p in self._params()], self._gradients()
        length = float(_dot(g, g)) ** 0.5
        if not (f == f and abs(f) < float("inf") and length < float("inf")):
            raise ValueError(
                f"OSGM needs a finite loss and gradient to start from, but got f={f}: "
                "look at the initial weights and the data"
            )
        t = self.FIRST / length if length else 0.0
        for p, x in zip(self._params(), g, strict=True):
            p.sub_(x, alpha=t)
        self._evaluate(run, closure)
        change = [a - b for a, b in zip(self._gradients(), g, strict=True)]
        curvature = float(_dot(change, change)) ** 0.5 / self.FIRST or 1.0
        run |= {"f": f, "L": curvature, "beta": self.MOMENTUM, "sum": 0.0}
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(w.pop(0))
                size = p if group["per"] == "weight" else p.new_zeros(())
                self.state[p] |= {
                    "w": p.clone(),
                    "before": p.clone(),
                    "g": g.pop(0),
                    "P": torch.full_like(size, 1 / curvature),
                    "sum": torch.zeros_like(size),
                }

    def _learn(
        self,
        run: dict[str, Any],
        trial: list[Tensor],
        g: list[Tensor],
        moved: list[Tensor],
    ) -> None:
        """AdaGrad on the hypergradients of P and β."""
        square, length = float(_dot(g, g)), float(_dot(moved, moved))
        pairs = {id(p): x * y for p, x, y in zip(self._params(), trial, g, strict=True)}
        for group in self.param_groups:
            together = sum(pairs[id(p)].sum() for p in group["params"])
            for p in group["params"]:
                state = self.state[p]
                of = {"weight": pairs[id(p)], "tensor": pairs[id(p)].sum()}
                h = -of.get(group["per"], together) / square
                state["sum"] += h * h
                scale = state["sum"].sqrt().clamp(min=torch.finfo(p.dtype).tiny)
                state["P"].sub_(self.STEP / run["L"] * h / scale).clamp_(min=0)
        if length > 0:
            h = float(_dot(trial, moved)) / (square + run["L"] * length)
            run["sum"] += h * h
            if h:
                beta = run["beta"] - self.MOMENTUM_STEP * h / run["sum"] ** 0.5
                run["beta"] = min(max(beta, 0.0), self.LARGEST)

    def _evaluate(self, run: dict[str, Any], closure: Callable[[], Any]) -> float:
        run["evaluations"] += 1
        with torch.enable_grad():
            return float(torch.as_tensor(closure()).detach())

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _gradients(self) -> list[Tensor]:
        grads = [p.grad for p in self._params()]
        if any(g is not None and g.is_sparse for g in grads):
            raise ValueError(
                "OSGM takes no sparse gradients: use sparse=False in the embedding"
            )
        return [
            torch.zeros_like(p) if g is None else g.clone()
            for p, g in zip(self._params(), grads, strict=True)
        ]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
