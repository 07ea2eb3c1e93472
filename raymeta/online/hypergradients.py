"""Hyper-steps along short-term hypergradients, and null steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.online.history import History
from raymeta.online.rule import Entry, Group, Rule
from raymeta.online.tensors import dot, real
from raymeta.online.walk import UPWARD, apart_each, scale, walk, walk_each

#: A hypergradient of so many times its scale says that the last step went too far.
OVERSHOT = 5.0
#: The longest first step, as a part of the length of all weights of its group.
LONGEST = 0.1
#: The most that the learning rate shrinks at once, as a factor; and how much it does
#: where the gradient is not finite.
SHRINK, NOT_FINITE = 1e3, 10.0
#: Steps in a row that are taken back before training is given up.
PATIENCE = 50


class Found(NamedTuple):
    """The hypergradient of one parameter.

    Attributes:
        entry: the parameter's, at the last step.
        name: the hyperparameter.
        p: the parameter.
        value: dL/du, shape (); of a learning rate dL/du / α, which keeps its scale
            while α moves by orders of magnitude.
        each: dL/du of each weight; None where they have none of their own.
    """

    entry: Entry
    name: str
    p: Tensor
    value: Tensor
    each: Tensor | None


class Hypergradients(Rule):
    """The rule's derivatives, joined to gradients: λ takes its hyper-steps."""

    _history: History

    def _learn(self) -> bool:
        """One hyper-step; False for a null step."""
        found = self._found()
        numbers = _numbers(found)
        sums = self._sums(found, numbers)
        lost = [key for key, value in sums.items() if not math.isfinite(value)]
        lost += [] if found else self._not_finite()
        shrink = {g: NOT_FINITE for g, name in lost if name == "lr"}
        for (g, name), value in sums.items():
            c = self.param_groups[g]["learned"][name]
            usual = scale(c) if c["taken"] else c.get("first", 0.0)
            if name == "lr" and 0 < OVERSHOT * usual < value < math.inf:
                shrink[g] = min(1 + value / usual, SHRINK)
        self._history.counts["non_finite"] += bool(lost)
        if shrink:
            self._take_back(shrink)
            return False
        self._history.in_a_row = 0
        for (g, name), value in sums.items():
            if math.isfinite(value):
                group = self.param_groups[g]
                upward = UPWARD if name == "lr" else 0.0
                c, hyper_lr = group["learned"][name], group["hyper_lr"]
                clipped = walk(c, value, hyper_lr, upward)
                self._history.counts["clipped"] += clipped
        for one, number in zip(found, numbers, strict=True):
            self._walk_own(one, number)
        return True

    def _found(self) -> list[Found]:
        """The hypergradients of the last step, from the gradients after it."""
        found = []
        for group in self.param_groups:
            for record in group["last"]:
                entry = Entry(group, **record)
                for p in entry.params:
                    if p.grad is not None:
                        found += self._found_of(entry, p)
        return found

    def _found_of(self, entry: Entry, p: Tensor) -> list[Found]:
        assert p.grad is not None
        sign = -1.0 if entry.group.get("maximize") else 1.0
        found = []
        for name, (effect, factor) in self._followed(entry, p).items():
            if entry.group["per"] == "weight":
                each = (real(p.grad) * effect).mul_(factor)
                each = each if sign > 0 else each.neg_()
                value = each.sum()
            else:
                each, value = None, dot(p.grad, effect) * (factor * sign)
            if name == "lr":
                value = value / (entry.values["lr"] or 1.0)
            found.append(Found(entry, name, p, value, each))
        return found

    def _not_finite(self) -> list[tuple[int, str]]:
        """Groups whose gradients are not finite, where no step was taken before."""
        found = []
        for g, group in enumerate(self.param_groups):
            grads = [p.grad for p in group["params"] if p.grad is not None]
            if "lr" in group["learn"] and not all(x.isfinite().all() for x in grads):
                found.append((g, "lr"))
        return found

    def _sums(
        self, found: list[Found], numbers: list[float]
    ) -> dict[tuple[int, str], float]:
        """The values by group and name."""
        places = {id(group): g for g, group in enumerate(self.param_groups)}
        sums: dict[tuple[int, str], float] = {}
        for one, number in zip(found, numbers, strict=True):
            key = places[id(one.entry.group)], one.name
            sums[key] = sums.get(key, 0.0) + number
        shared: dict[str, float] = {}
        for (g, name), value in sums.items():
            if self.param_groups[g]["per"] == "model":
                shared[name] = shared.get(name, 0.0) + value
        for g, name in sums:
            if self.param_groups[g]["per"] == "model":
                sums[g, name] = shared[name]
        return sums

    def _walk_own(self, one: Found, number: float) -> None:
        group, state = one.entry.group, self.state[one.p]
        if one.name in group["own"] and math.isfinite(number):
            own = group["own"][one.name][one.entry.index[0]]
            walk(own, number, group["hyper_lr"])
        if one.each is not None:
            kind, key = group["learned"][one.name]["kind"], f"own_{one.name}"
            if key not in state:
                state[key] = apart_each(real(one.p), kind)
            each = one.each.to(state[key].dtype)
            walk_each(state[key], each, group["hyper_lr"], kind)

    def _scale_first(self) -> None:
        """What hypergradients are measured by before there are any: g_t · d_t."""
        groups = [g["learned"].get("lr") for g in self.param_groups]
        if all(c is None or c["taken"] for c in groups):
            return
        found = self._found()
        for (g, name), value in self._sums(found, _numbers(found)).items():
            self.param_groups[g]["learned"][name]["first"] = abs(value)

    def _too_long(self) -> dict[int, float]:
        """Groups whose first step is too long beside their weights, once: how much."""
        shrink = {}
        for g, group in enumerate(self.param_groups):
            c = group["learned"].get("lr")
            known = c is None or c["taken"] or "shortened" in c
            if known or not group["hyper_lr"]:
                continue
            moved = length = 0.0
            for record in group["last"]:
                entry = Entry(group, **record)
                for p in entry.params:
                    effect, factor = self._effects(entry, p)["lr"]
                    step = effect * (factor * self._value(entry, "lr", p))
                    before = real(p) - step
                    moved += float(dot(step, step))
                    length += float(dot(before, before))
            # Of weights that were 0, rounding is left.
            if moved > LONGEST**2 * length > 1e-8 * moved:
                shrink[g] = (moved / length) ** 0.5 / LONGEST
                c["shortened"] = True
        model = [g for g, group in enumerate(self.param_groups) if _joint(group)]
        most = max((shrink[g] for g in model if g in shrink), default=None)
        return shrink | (dict.fromkeys(model, most) if most else {})

    def _take_back(self, shrink: dict[int, float]) -> None:
        """Undo the last step everywhere; shrink the learning rates of groups."""
        for group in self.param_groups:
            for record in group["last"]:
                entry = Entry(group, **record)
                for p in entry.params:
                    effect, factor = self._effects(entry, p)["lr"]
                    real(p).sub_(effect * (factor * self._value(entry, "lr", p)))
            group["last"] = []
        for g, factor in shrink.items():
            c = self.param_groups[g]["learned"]["lr"]
            c["u"] = max(c["u"] - math.log(factor), c["low"])
        self._history.counts["null_steps"] += 1
        self._history.in_a_row += 1
        if self._history.in_a_row > PATIENCE:
            raise ValueError(
                f"{PATIENCE} steps in a row were taken back, with gradients that are "
                "not finite or far too long: look at the data and the loss, which no "
                "learning rate mends"
            )


def _joint(group: Group) -> bool:
    """Whether a group's rate moves with those of others."""
    return group["per"] == "model" and "lr" in group["learn"]


def _numbers(found: list[Found]) -> list[float]:
    """All of them at once: one wait for the device."""
    if not found:
        return []
    device = found[0].value.device
    values = [one.value.to(device, torch.float64) for one in found]
    return torch.stack(values).tolist()
