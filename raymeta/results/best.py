"""Best hyperparameters of a comparison, in natural values."""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from raymeta import display, tasks
from raymeta.errors import said, unknown_name
from raymeta.results.schema import PREFIX, REQUIRED_COLUMNS
from raymeta.results.validity import InvalidComparison, reasons_of, sentence
from raymeta.space import Space
from raymeta.space.search_space import Point
from raymeta.tasks import Task
from raymeta.types import Hparams

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Best:
    """The hyperparameters with which a comparison found its lowest loss on a task.

    Attributes:
        task: the task's name.
        method: which method found them.
        seed: on which problem, `task.sample(seed)`.
        outer_loss: the lowest validation loss of a full run.
        hparams: λ in natural values, as problems take it.
        point: λ as plain scalars by flat name, `lr[0]`, as `Space`, searches and JSON
            have it.
    """

    task: str
    method: str
    seed: int
    outer_loss: float
    hparams: Hparams
    point: Point

    def __repr__(self) -> str:
        return (
            f"Best({self.task!r} by {self.method}, seed {self.seed}: outer_loss="
            f"{self.outer_loss:.5g}, hparams=({display.entries(self.hparams)}))"
        )

    def _repr_html_(self) -> str:
        title = f"{self.task} by {self.method}, seed {self.seed}"
        return display.table(title, {"outer loss": self.outer_loss, **self.hparams})

    def torch_options(self, optimizer: "type[torch.optim.Optimizer]") -> dict[str, Any]:
        """What of λ an optimizer of `torch.optim` takes, by its own names.

        `torch.optim.SGD(net.parameters(), **best.torch_options(torch.optim.SGD))`.
        "beta1" and "beta2" are its `betas`. Hyperparameters that it does not have
        (a penalty of one's own, a dropout rate) are left out.

        Raises:
            ValueError: it has none of λ's names; or one is a tensor with a value for
                each parameter group.
        """
        known = inspect.signature(optimizer).parameters
        options: dict[str, Any] = {}
        for name, value in self.hparams.items():
            if name not in known or name == "params":
                continue
            if isinstance(value, Tensor) and value.numel() > 1:
                raise ValueError(
                    f"{optimizer.__name__} takes one {name}, but that of "
                    f"{self.task!r} has shape {tuple(value.shape)}: make a parameter "
                    f"group for each of best.hparams[{name!r}].tolist()"
                )
            options[name] = value.item() if isinstance(value, Tensor) else value
        betas = [self.hparams.get(name) for name in ("beta1", "beta2")]
        if "betas" in known and any(beta is not None for beta in betas):
            usual = known["betas"].default
            options["betas"] = tuple(
                own if beta is None else float(beta)
                for beta, own in zip(betas, usual, strict=True)
            )
        if not options:
            raise ValueError(
                f"{optimizer.__name__} has no setting called "
                f"{', '.join(self.hparams)}: give it those of best.hparams by hand"
            )
        return options


def best(
    frame: "DataFrame",
    task: Task | str,
    method: str | None = None,
    *,
    seed: int | None = None,
) -> Best:
    """The hyperparameters of the lowest loss that a comparison found on a task.

    They are those of the run that the method returned. Where a method changes λ within
    a run (`short_term`, `forward_online`, `pbt`) they may be those at its end, which
    trained as a constant give another loss: `raymeta.hypergradient` or a run of one's
    own says which.

    Args:
        frame: of `raymeta.compare`, one row per report.
        task: a task of the comparison: the object, its name, or `path.py:Name`.
        method: which method's; by default the one with the lowest loss.
        seed: which seed's; by default that with the lowest loss. Seeds are other
            problems: a lower loss need not mean a better λ.

    An `InvalidComparison` warns where methods did not train on the same.

    Raises:
        ValueError: no frame of a comparison; it has no such task, method or seed; or no
            run of them ended with a finite loss.
    """
    missing = [n for n in REQUIRED_COLUMNS if n not in getattr(frame, "columns", ())]
    if missing:
        raise ValueError(
            "best needs the frame of a comparison, as raymeta.compare returns it and "
            f"raymeta.analysis.read reads it, but got {said(type(frame).__name__)} "
            f"without {', '.join(missing)}"
        )
    task = tasks.resolve(task)
    given: Mapping[str, Any] = {"task": task.name, "method": method, "seed": seed}
    rows = frame
    for column, value in given.items():
        if value is None:
            continue
        if not (rows[column] == value).any():
            raise unknown_name(f"{column} of the frame", value, _known(rows[column]))
        rows = rows[rows[column] == value]
    rows = rows[rows["status"].isin(["complete", "final"])]
    # A full run below what is returned was a lucky point, see docs/fairness.md.
    rows = rows[rows["outer_loss"] >= rows["best_outer_loss"]]
    if not len(rows):
        of = {column: value for column, value in given.items() if value is not None}
        raise ValueError(
            f"no run of {of} ended with a finite loss: let the comparison go on"
        )
    if said_invalid := sentence(reasons_of(rows)):
        warnings.warn(said_invalid, InvalidComparison, stacklevel=2)
    ordered = rows.sort_values(["outer_loss", "status"], kind="stable")
    row = ordered.iloc[0]
    values = {
        str(name).removeprefix(PREFIX): value
        for name, value in row.items()
        if str(name).startswith(PREFIX) and value == value  # NaN where not used
    }
    # What the run's options do not use is not in its row.
    used = dict.fromkeys(name.split("[")[0] for name in values)
    space = Space(**{name: task.space[name] for name in used}, when={})
    return Best(
        task=task.name,
        method=str(row["method"]),
        seed=int(row["seed"]),
        outer_loss=float(row["outer_loss"]),
        hparams=space.hparams(values),
        point=space.parse(values),
    )


def _known(column: Any) -> list[str]:
    return [str(value) for value in column.unique()]
