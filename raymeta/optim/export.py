"""Export of learned schedules to files, and their replay with plain `torch.optim`."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import torch
from torch.optim.lr_scheduler import LambdaLR

from raymeta.errors import one_line, unknown_name

#: λ over one training run, as `Result.schedule` has it: (number of steps, λ by flat
#: name) in order.
Run = Sequence[tuple[int, Mapping[str, Any]]]
#: What the groups of a `torch.optim` optimizer get: a mapping for all of them, or one
#: each.
GroupSettings = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@overload
def export_schedule(schedule: Run, to: str | Path) -> None: ...
@overload
def export_schedule(
    schedule: Run,
    to: torch.optim.Optimizer,
    settings: Callable[[Mapping[str, Any], int], GroupSettings] | None = None,
) -> LearnedSchedule: ...
def export_schedule(
    schedule: Run,
    to: str | Path | torch.optim.Optimizer,
    settings: Callable[[Mapping[str, Any], int], GroupSettings] | None = None,
) -> LearnedSchedule | None:
    """Write a learned schedule as JSON, or make a scheduler of `torch.optim` of it.

    Args:
        schedule: λ over the steps of a run.
        to: a file, which gets one line per run of constant λ, floats with every bit; or
            a plain optimizer, of which the `LearnedSchedule` is returned.
        settings: see `LearnedSchedule`; of an optimizer only.

    Raises:
        ValueError: a value that JSON does not have, such as NaN or a tensor; see
            `LearnedSchedule`.
    """
    if isinstance(to, torch.optim.Optimizer):
        return LearnedSchedule(to, schedule, settings)
    lines = []
    for steps, hparams in schedule:
        for name, value in hparams.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    "export_schedule needs finite numbers, strings and lists, but got "
                    f"{name}={value!r}"
                ) from error
        lines.append(json.dumps({"steps": steps, "hparams": dict(hparams)}))
    Path(to).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return None


def load_schedule(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Read what `export_schedule` wrote.

    Raises:
        ValueError: the file cannot be read, or has something else.
    """
    try:
        segments = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(segments, list):
            raise TypeError("it is no list")
        schedule = [
            (segment["steps"], dict(segment["hparams"])) for segment in segments
        ]
        if any(type(steps) is not int or steps < 1 for steps, _ in schedule):
            raise TypeError("'steps' must be a whole number of 1 or more")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is no schedule as export_schedule writes it, a list of "
            f'{{"steps": …, "hparams": {{…}}}} in JSON ({one_line(error)}): restore '
            "it, or export it again"
        ) from None
    return schedule


def replay_with_torch(
    optimizer: torch.optim.Optimizer,
    schedule: Run,
    settings: Callable[[Mapping[str, Any], int], GroupSettings],
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Set a plain optimizer's groups before each step of a learned schedule.

    The loop is the user's own; with the same initial weights and batches it ends with
    the weights of the run that was exported:

    ```
    optimizer = torch.optim.Adam(net.parameters())
    settings = lambda h, t: {"lr": h["lr"], "betas": (h["beta1"], 0.999)}
    for t, h in replay_with_torch(optimizer, load_schedule(path), settings):
        optimizer.zero_grad()
        loss(net, batch(t)).backward()
        optimizer.step()
    ```

    Settings that `torch.optim` reads at construction only (Adagrad's
    `initial_accumulator_value`) must be given there.

    Args:
        optimizer: an optimizer of `torch.optim`.
        schedule: what `load_schedule` gives, or `Result.schedule`.
        settings: (λ by flat name, step t) -> settings of all groups, or a list with
            those of each group.

    Yields:
        The step t = 0, 1, … and λ at it, for what else the loop takes from λ.

    Raises:
        ValueError: a name that the optimizer's groups do not have; a list of another
            length than theirs.
    """
    by_step = (hparams for steps, hparams in schedule for _ in range(steps))
    for t, hparams in enumerate(by_step):
        _set_groups(optimizer, settings(hparams, t))
        yield t, hparams


class LearnedSchedule(LambdaLR):
    """Scheduler of `torch.optim` that sets a learned schedule, step by training step.

    Not the learning rate alone: momentum, betas, weight decay and what else of λ the
    optimizer's groups have. With the same initial weights and batches training ends
    with the weights of the run that was learnt. After its last step the last values
    hold. Lightning takes it from `configure_optimizers` as `{"scheduler": …,
    "interval": "step"}`, `transformers.Trainer` as `optimizers=(optimizer, …)`.

    Args:
        optimizer: a plain optimizer of `torch.optim`.
        schedule: what `load_schedule` gives, or `Result.schedule`.
        settings: (λ by flat name, step t) -> settings of all groups, or a list with
            those of each group. By default by name: `lr`, or `lr[g]` of group g;
            `beta1` and `beta2` of `betas`.

    Raises:
        ValueError: no steps; a λ that the groups have no setting for, where `settings`
            does not say what becomes of it; see `replay_with_torch`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Run,
        settings: Callable[[Mapping[str, Any], int], GroupSettings] | None = None,
    ) -> None:
        self._ends = list(accumulate(steps for steps, _ in schedule))
        if not self._ends:
            raise ValueError("LearnedSchedule needs a schedule of 1 step or more")
        self._points = [hparams for _, hparams in schedule]
        self._settings = settings or partial(_by_name, optimizer.param_groups)
        super().__init__(optimizer, lambda t: 1.0)

    def get_lr(self) -> list[Any]:
        """The learning rates of this step; everything else is set as well."""
        t = min(self.last_epoch, self._ends[-1] - 1)
        point = self._points[bisect_right(self._ends, t)]
        _set_groups(self.optimizer, self._settings(point, t))
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """How far it is: the schedule itself is not kept."""
        state = super().state_dict()
        for own in ("_ends", "_points", "_settings"):
            del state[own]
        return state


def _by_name(
    groups: Sequence[Mapping[str, Any]], hparams: Mapping[str, Any], t: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in groups]
    for label, value in hparams.items():
        name, _, place = label.removesuffix("]").partition("[")
        setting = "betas" if name in ("beta1", "beta2") else name
        chosen = [str(g) for g in range(len(groups))]
        if place:
            chosen = [place] if place in chosen else []
        if not chosen or setting not in groups[0]:
            raise ValueError(
                f"{label} of the schedule is no setting of the optimizer's groups, of "
                f"which there are {len(groups)}: give settings=, (λ, step) -> settings"
            )
        for g in map(int, chosen):
            if setting == "betas":
                betas = list(found[g].get("betas", groups[g]["betas"]))
                betas[int(name[-1]) - 1] = value
                found[g]["betas"] = tuple(betas)
            else:
                found[g][setting] = value
    return found


def _set_groups(optimizer: torch.optim.Optimizer, settings: GroupSettings) -> None:
    groups = optimizer.param_groups
    each = [settings] * len(groups) if isinstance(settings, Mapping) else settings
    if len(each) != len(groups):
        raise ValueError(
            "replay_with_torch needs one mapping for all groups or one each, but got "
            f"{len(each)} for {len(groups)} groups"
        )
    for group, own in zip(groups, each, strict=True):
        for name, value in own.items():
            if name not in group:
                raise unknown_name("setting of a torch.optim group", name, group)
            # Where its momentum is exactly 0, torch.optim leaves the buffer as it is,
            # while ours becomes g: the smallest float makes it become g there too.
            vanishes = name == "momentum" and value == 0
            group[name] = math.ulp(0.0) if vanishes else value
