"""Export of learned schedules to files, and their replay with plain `torch.optim`."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raymeta.errors import unknown_name

#: λ over one training run, as `Result.schedule` has it: (number of steps, λ by flat
#: name) in order.
Run = Sequence[tuple[int, Mapping[str, Any]]]
#: What the groups of a `torch.optim` optimizer get: a mapping for all of them, or one
#: each.
GroupSettings = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def export_schedule(schedule: Run, path: str | Path) -> None:
    """Write a learned schedule as JSON, one line per run of constant λ.

    Floats keep every bit.

    Raises:
        ValueError: a value that JSON does not have, such as NaN or a tensor.
    """
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
    Path(path).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def load_schedule(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Read what `export_schedule` wrote."""
    segments = json.loads(Path(path).read_text(encoding="utf-8"))
    return [(segment["steps"], segment["hparams"]) for segment in segments]


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
