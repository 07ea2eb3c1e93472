"""The tidy frame: one row per report of its studies."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from raymeta.outer.report import Report, lowest_kept
from raymeta.results.schema import REPORTS, TEST, TRUST, frame_of, hparam_columns
from raymeta.results.validity import mark
from raymeta.search.fairness import evidence_of, reasons
from raymeta.search.study.study import Study
from raymeta.search.study.sums import Sums
from raymeta.space import Choice, Domain


def to_frame(studies: Iterable[Study]) -> pd.DataFrame:
    """One row per report, study by study.

    Of a study that is under way: those that are applied, then those whose turn has not
    come, as a comparison that ends now has them.

    Returns:
        `gradient_evals` and `wall_s` (seconds) are cumulative over the trials of a
        study; the `final` row, the look at the test set, adds nothing to them. `flops`
        is `gradient_evals` times `step_flops` of the task: those of plain training
        steps of equal charge, without validation.
        `best_outer_loss` is the lowest finite outer loss of a full run of the study so
        far, without those below what a descent returns in the end. `parent` is the
        trial whose training the report continues: its own, or the one that it has
        copied; so the schedule of hyperparameters behind a report can be followed back
        through the rows. A hyperparameter that the options of a trial do not use is
        empty (NaN). Where methods did not train on the same, the frame has a column
        `invalid`, see `raymeta.results.validity`. `holdout_loss` is that of the start
        in the first row and that of the result in the final one; `standard_error` that
        of the result's `outer_loss` over validation examples, of which there are
        `examples` for each hyperparameter.
    """
    studies = list(studies)
    hparams = _hparam_dtypes(studies)
    rows = [row for study in studies for row in _rows(study, hparams)]
    metrics = sorted({key for row in rows for key in row if key.startswith(TEST)})
    loss = f"{TEST}loss"
    tests = dict.fromkeys(
        [loss, *(name for name in metrics if name != loss)], "float64"
    )
    frame = frame_of(rows, tuple(REPORTS), tests | hparam_columns(hparams))
    return mark(frame, reasons(evidence_of(studies)))


def _rows(study: Study, dtypes: dict[str, str]) -> Iterator[dict[str, Any]]:
    spec, best, reports = study.spec, math.nan, study.heard
    start = _start_holdout(reports)
    lowest = lowest_kept(report for _, report in reports.saying("returned"))
    domains = spec.task.space.flat_domains()
    spent, wall = Sums(), Sums()
    for number, report in reports:
        if report.kind != "final":
            spent.put(number, report.gradient_evals)
            wall.put(number, report.wall_s)
        total = spent.total
        counts = report.scores and report.outer_loss >= lowest
        if counts and not best <= report.outer_loss:  # also when best is NaN
            best = report.outer_loss
        yield {
            **spec.key._asdict(),
            "family": spec.method.family,
            "trial": number,
            "parent": number if report.parent is None else report.parent,
            "outer_step": report.outer_step,
            "inner_steps": report.inner_steps,
            "gradient_evals": total,
            "flops": total * spec.flops,
            "wall_s": wall.total,
            "outer_loss": report.outer_loss,
            "best_outer_loss": best,
            **{name: getattr(report, name) for name in TRUST},
            "holdout_loss": start,
            "status": report.status,
            "failure": report.failure,
            **report.metrics,
            **hparam_columns(
                {
                    name: _shown(domains[name], value, dtypes[name])
                    for name, value in report.hparams.items()
                    if name in domains
                }
            ),
        }
        start = math.nan


def _start_holdout(reports: Sequence[tuple[int, Report]]) -> float:
    """The loss on data held back at the start, which the last report brings."""
    if not reports:
        return math.nan
    return reports[-1][1].metrics.get("start_holdout_loss", math.nan)


def _hparam_dtypes(studies: list[Study]) -> dict[str, str]:
    """Numbers where every task has numbers, words otherwise."""
    dtypes: dict[str, str] = {}
    for study in studies:
        for name, domain in study.spec.task.space.flat_domains().items():
            if dtypes.get(name) != "str":
                dtypes[name] = "float64" if _is_numeric(domain) else "str"
    return dtypes


def _is_numeric(domain: Domain) -> bool:
    if not isinstance(domain, Choice):
        return True
    numbers = {float(o) for o in domain.options if type(o) in (int, float)}
    return len(numbers) == len(domain.options)  # 1 and 1.0 are one number


def _shown(domain: Domain, value: Any, dtype: str) -> Any:
    """A value as its column has it: an option by its label among words."""
    if dtype != "str":
        return value
    if isinstance(domain, Choice):
        return domain.labels[domain.index(value)]
    return str(value)
