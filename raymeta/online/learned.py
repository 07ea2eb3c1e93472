"""What an online optimizer has learnt: as a frame, a figure, a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from raymeta.online.coordinates import natural
from raymeta.online.history import labelled
from raymeta.online.hypergradients import Hypergradients
from raymeta.online.rule import schedule_factor
from raymeta.optim.export import LearnedSchedule, export_schedule

if TYPE_CHECKING:
    import pandas as pd


class Learned(Hypergradients):
    """The public side of what was learnt, step by step."""

    @property
    def learned(self) -> pd.DataFrame:
        """What was learnt: a row per step, a column per hyperparameter.

        Columns: `step` from 0; the values that the step took, `lr`, or `lr[g]` where
        there are several groups, or `lr[g,i]` of parameter i where tensors have their
        own (of weights, what they share); `null`, whether the step before was taken
        back and this one not taken.
        """
        return self._history.frame()

    @property
    def counts(self) -> dict[str, int]:
        """How often a guard acted.

        `null_steps`: steps taken back; `non_finite`: of these, or of hypergradients
        that were passed over, those that were not finite; `clipped`: hypergradients
        cut to their running scale.
        """
        return dict(self._history.counts)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of what was learnt against steps; also to a file."""
        return self._history.plot(path)

    @property
    def point(self) -> dict[str, float]:
        """The values of the last step by name, `lr[g]` where there are several groups.

        Where tensors or weights have their own, what their group shares.
        """
        found = {}
        for g, group in enumerate(self.param_groups):
            last = group["last"]
            factor = last[0]["factor"] if last else schedule_factor(group)
            for name, c in group["learned"].items():
                value = natural(c, c["u"]) * (factor if name == "lr" else 1.0)
                found[labelled(name, g, len(self.param_groups))] = value
        return found

    @overload
    def export(self, to: str | Path) -> None: ...
    @overload
    def export(self, to: torch.optim.Optimizer) -> LearnedSchedule: ...
    def export(self, to: str | Path | torch.optim.Optimizer) -> LearnedSchedule | None:
        """The schedule that was learnt: as JSON, or as a scheduler of `torch.optim`.

        Args:
            to: a file, for `raymeta.optim.load_schedule`; or a plain optimizer, for
                which a `raymeta.optim.LearnedSchedule` is made.

        Raises:
            ValueError: no step was taken; tensors have values of their own, which
                groups cannot have.
        """
        schedule = self._history.schedule()
        if not schedule:
            raise ValueError("nothing is learnt yet, of 0 steps: export after training")
        if isinstance(to, torch.optim.Optimizer):
            for group in self.param_groups:
                if group["learn"] and group["per"] in ("tensor", "weight"):
                    raise ValueError(
                        "groups of torch.optim cannot have what was learnt "
                        f"per={group['per']!r}: learn per='group' to replay it there"
                    )
            return LearnedSchedule(to, schedule)
        return export_schedule(schedule, to)
