"""`torch.optim` optimizers whose hyperparameters learn while training goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from raymeta.compile.disabled import uncompiled
from raymeta.errors import unknown_name
from raymeta.online.checks import (
    refused_in_one_line,
    require_closure,
    require_gradients,
    require_same_rule,
    require_sound,
    warn_of_rates,
)
from raymeta.online.coordinates import (
    named,
    natural,
    require_names,
    settings,
    starting,
)
from raymeta.online.history import History
from raymeta.online.learned import Learned
from raymeta.online.rule import Entry, Group, schedule_factor
from raymeta.online.tensors import Scratch, real
from raymeta.online.walk import HYPER_LR, apart, still
from raymeta.space import Space

Per = Literal["model", "group", "tensor", "weight"]


class Learning(Learned):
    r"""What the optimizers of `raymeta.online` share.

    With the gradient $g_{t+1}$ that the next step descends along anyway,

    $$ \frac{dL_{t+1}}{d\lambda} =
       g_{t+1} \cdot \frac{\partial w_{t+1}}{\partial\lambda} $$

    with $w_t$ and the optimizer's memory held fixed, so a hypergradient costs no pass
    of the network. λ takes one hyper-step in its coordinate u, and `torch.optim` the
    next step with it. With a trace, γ > 0, earlier steps count too, without the
    Hessian:

    $$ h_{t+1} = \gamma\, (1 - \alpha\lambda_w)\, h_t +
       \frac{\partial w_{t+1}}{\partial u},\quad
       \frac{dL_{t+1}}{du} = g_{t+1} \cdot h_{t+1} $$

    where $\lambda_w$ is a decoupled weight decay.

    Where the gradient after a step says that the step went too far by far, or is not
    finite, the step is taken back and the learning rate shrunk: a null step.

    Args:
        params: parameters, or groups of them; a group may have `learn`, `hyper_lr`,
            `per` and `trace` of its own.
        *args: as the class of `torch.optim` has them.
        learn: names of what is learnt; () is `torch.optim` to the bit.
        hyper_lr: η, the length of a hyper-step in the coordinate; 0.1 by default.
        per: what has a value of its own. Values of tensors and weights are deviations
            from their group's. "model": all groups move together. Momenta and betas are
            learnt for tensors at most.
        trace: γ in [0, 1): the discount of earlier steps' effects.
        space: bounds and coordinates by name, such as `raymeta.Space(lr=
            raymeta.Positive(1e-3, low=1e-6, high=1.0))`; the starts are the
            optimizer's. By default lr and weight decay walk in log λ up to a factor of
            1e8 either way, momentum and betas in logit λ up to 0.9999.
        **flags: as the class of `torch.optim` has them.

    Raises:
        ValueError: a name that the rule does not have; a start on a boundary; another
            `per`; a trace outside [0, 1).

    Source: Baydin et al. 2018, eq. 5-6; Chandra et al. 2022 for any hyperparameter;
    Sharifnassab et al. 2024 (MetaOptimize) for traces without the Hessian; Gao et al.
    2025 (OSGM) for null steps.
    """

    def __init__(
        self,
        params: Any,
        *args: Any,
        learn: Any = ("lr",),
        hyper_lr: float | None = None,
        per: Per = "group",
        trace: float = 0.0,
        space: Space | None = None,
        **flags: Any,
    ) -> None:
        name = type(self).__name__
        known = list(inspect.signature(self.RULE).parameters)
        for flag in flags:
            if flag not in known:
                ours = ["learn", "hyper_lr", "per", "trace", "space"]
                raise unknown_name(f"argument of {name}", flag, known + ours)
        self._prepare(learn, hyper_lr, per, trace, space)
        with refused_in_one_line(name):
            super().__init__(params, *args, **flags)
        self._require_unscaled()

    @classmethod
    def take_over(
        cls, optimizer: torch.optim.Optimizer, groups: list[Group], *options: Any
    ) -> None:
        """Make an optimizer of `RULE` one that learns; see `from_torch`.

        Args:
            optimizer: as it was before where something is refused.
            groups: a copy of its groups, each with `learn`.
            *options: the arguments from `learn` to `space`, in order.

        Raises:
            ValueError: as the class itself does.
        """
        made = cls.__new__(cls)
        made.__dict__ |= {**vars(optimizer), "param_groups": groups}
        made._prepare(*options)
        made._history = History(groups[0].pop("history", None))
        for group in groups:
            if "learned" not in group:
                made._settle(group)
        made._require_unscaled()
        for group, begun in zip(optimizer.param_groups, groups, strict=True):
            group.pop("history", None)
            group.update(begun)
        optimizer.__class__ = cls
        optimizer.__setstate__({**vars(made), "param_groups": optimizer.param_groups})

    def _prepare(
        self,
        learn: Any,
        hyper_lr: float | None,
        per: Per,
        trace: float,
        space: Space | None,
    ) -> None:
        if space is not None:
            require_names(type(self).__name__, space, self.LEARNABLE)
        self._space = space
        self._online = {
            "learn": learn,
            "hyper_lr": HYPER_LR if hyper_lr is None else hyper_lr,
            "per": per,
            "trace": trace,
        }
        self._history, self._scratch = History(), Scratch()
        self._warned, self._rates_warned = False, False

    def _require_unscaled(self) -> None:
        """Have GradScaler unscale gradients before the step, not inside it."""
        if self.learns:
            self._step_supports_amp_scaling = False

    @property
    def learns(self) -> bool:
        """Whether anything is learnt."""
        return any(group["learn"] for group in self.param_groups)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as `torch.optim` does; what it learns starts at its values."""
        super().add_param_group(param_group)
        try:
            self._settle(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _settle(self, group: Group) -> None:
        for name, value in self._online.items():
            group.setdefault(name, value)
        rule = type(self).__name__
        group["learn"] = require_names(rule, group["learn"], self.LEARNABLE)
        require_sound(group)
        self._begin(group)

    def _begin(self, group: Group) -> None:
        # Where a scheduler has been at work, the rate that it multiplies.
        scheduled = {**group, "lr": group.get("initial_lr", group["lr"])}
        group["start"] = {n: named(scheduled, n) for n in group["learn"]}
        group["learned"] = {
            n: still(starting(n, value, self._space))
            for n, value in group["start"].items()
        }
        lr, decay = named(scheduled, "lr"), named(group, "weight_decay")
        if group["learn"] and lr > self._most(group, decay):
            raise ValueError(
                f"{type(self).__name__} needs lr * weight_decay <= 1/2 to learn, but "
                f"got lr={lr} and weight_decay={decay}: make one of them smaller"
            )
        own = group["learn"] if group["per"] == "tensor" else ()
        group["own"] = {n: [apart() for _ in group["params"]] for n in own}
        group["last"] = []

    # ------------------------------------------------------------------- the step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; what is learnt takes its hyper-step first.

        Args:
            closure: zeroes the gradients, computes the loss and its gradients, and
                returns the loss; called once.

        Raises:
            ValueError: no parameter has a gradient, or a sparse one; a setting that is
                learnt was set from outside; gradients that stay non-finite.
        """
        require_closure(closure)
        if not self.learns:
            return self._plain_step(closure)
        return self._learning_step(closure)

    # λ, numbers that differ from step to step, would be compiled anew each time.
    @uncompiled
    @torch.no_grad()
    def _learning_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._warned |= require_gradients(self.param_groups, warned=self._warned)
        self._rates_warned = self._rates_warned or warn_of_rates(self.param_groups)
        taken = self._learn()
        if taken:
            self._take_step()
            too_long = self._too_long()
            if too_long:
                self._take_back(too_long)
                taken = False
        self._history.add(self.param_groups, null=not taken)
        return loss

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The step of `torch.optim`, without its hooks, which run around ours."""
        step = self.RULE.step
        if getattr(step, "hooked", False):
            step = step.__wrapped__  # type: ignore[attr-defined]
        return step(self, closure)

    def _take_step(self) -> None:
        entries = [e for group in self.param_groups for e in self._entries(group)]
        before = [[self._before(e, p) for p in e.params] for e in entries]
        with self._as(entries):
            self._plain_step()
        for group in self.param_groups:
            group["last"] = []
        for entry, kept in zip(entries, before, strict=True):
            group = entry.group
            if not group["learn"]:
                continue
            for p, own in zip(entry.params, kept, strict=True):
                self._after(entry, p, own)
                if group["per"] == "weight":
                    self._move_weights(entry, p)
                if group["trace"]:
                    self._follow(entry, p)
            group["last"].append(entry.record())
        self._scale_first()

    def _entries(self, group: Group) -> list[Entry]:
        """The group's parameters that have gradients, with λ as learnt so far."""
        index = [i for i, p in enumerate(group["params"]) if p.grad is not None]
        parts = [[i] for i in index] if group["own"] else [index] if index else []
        factor = schedule_factor(group)
        return [Entry(group, i, self._values(group, i, factor), factor) for i in parts]

    def _values(
        self, group: Group, index: list[int], factor: float
    ) -> dict[str, float]:
        found = {}
        for name in self.LEARNABLE:
            if name not in group["learn"]:
                found[name] = named(group, name)
                continue
            start, given = group["start"][name], named(group, name)
            if name != "lr" and given != start:
                raise ValueError(
                    f"{name} is learnt, but was set from {start} to {given}, as "
                    "OneCycleLR(cycle_momentum=True) does: leave it out of learn=, or "
                    "keep the scheduler's hands off it"
                )
            c = group["learned"][name]
            u = c["u"]
            if name in group["own"]:
                u += group["own"][name][index[0]]["u"]
            found[name] = natural(c, u) * (factor if name == "lr" else 1.0)
        found["lr"] = min(found["lr"], self._most(group, found["weight_decay"]))
        return found

    @contextmanager
    def _as(self, entries: list[Entry]) -> Iterator[None]:
        """The groups as `torch.optim` is to see them, with the values learnt so far."""
        groups, decayed = self.param_groups, []
        swapped = []
        for entry in entries:
            values = {n: entry.values[n] for n in entry.group["learn"]}
            if entry.group["per"] == "weight" and values:
                # torch.optim keeps the memory; `_move_weights` takes the step.
                values["lr"] = 0.0
                if all(_fuses(entry.group, p, self.state[p]) for p in entry.params):
                    values |= {"fused": True, "foreach": False}
                if "weight_decay" in values:
                    values["weight_decay"] = 0.0
                    if not self._decoupled(entry.group):
                        decayed += [(p, p.grad) for p in entry.params]
                        self._decay(entry)
            given = settings(entry.group, values)
            swapped.append({**entry.group, **given, "params": entry.params})
        self.param_groups = swapped
        try:
            yield
        finally:
            self.param_groups = groups
            for p, grad in decayed:
                p.grad = grad

    def _decay(self, entry: Entry) -> None:
        sign = -1 if entry.group.get("maximize") else 1
        for p in entry.params:
            assert p.grad is not None
            p.grad = p.grad + sign * self._value(entry, "weight_decay", p) * p

    def _move_weights(self, entry: Entry, p: Tensor) -> None:
        w, d = real(p), self._direction(entry, p)
        decay = self._value(entry, "weight_decay", p)
        if self._decoupled(entry.group):
            d = self._decayed(d, decay, w)
        lr = self._value(entry, "lr", p)
        if isinstance(lr, Tensor):
            w.addcmul_(d, lr, value=-1)
        else:
            w.sub_(d, alpha=lr)

    # ------------------------------------------------------- torch.optim's interface

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on to the bit, and what was learnt so far."""
        state = super().state_dict()
        # In a group, which whoever keeps states of torch.optim keeps whole.
        state["param_groups"][0]["history"] = self._history.state()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; from one of `torch.optim`'s own class, start.

        Raises:
            ValueError: the state of another rule.
        """
        require_same_rule(state_dict, self.defaults, type(self).__name__)
        own = [{k: group.get(k) for k in self._online} for group in self.param_groups]
        super().load_state_dict(dict(state_dict))
        for group, given in zip(self.param_groups, own, strict=True):
            if "learned" not in group:
                group.update(given)
                self._begin(group)
        self._history = History(self.param_groups[0].pop("history", None))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__}


def _fuses(group: Group, p: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether the fused step, of fewer passes, may keep the memory of a tensor."""
    count = state.get("step", torch.zeros(()))
    plain = type(p) in (Tensor, torch.nn.Parameter) and p.device.type == "cpu"
    return (
        "fused" in group
        and plain
        and p.is_floating_point()
        and count.dtype == torch.float32
    )
