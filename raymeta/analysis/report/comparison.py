"""The page of a comparison, or of one optimization."""

from pathlib import Path

import pandas as pd

from raymeta.analysis.figures.comparison import ANIMATION, DEEP, FLAT, stems
from raymeta.analysis.figures.critical_difference import verdict
from raymeta.analysis.report.budgets import (
    budget_table,
    failure_columns,
    skipped_columns,
)
from raymeta.analysis.report.record import evidence_columns, read_settings
from raymeta.analysis.report.rendering import render
from raymeta.analysis.report.results import rankings, statistics
from raymeta.analysis.report.trust import trust_columns
from raymeta.analysis.tables.frames import STUDY
from raymeta.analysis.tables.ranking import ranking
from raymeta.analysis.tables.ranks import mean_ranks, task_scores
from raymeta.analysis.tables.text import number
from raymeta.results.overfitting import overfitted
from raymeta.results.records import Record, read_evidence, read_spending
from raymeta.results.validity import reasons_of, sentence


def comparison_page(frame: pd.DataFrame, folder: Path, part: bool = False) -> str:
    """Write the page.

    Args:
        frame: one row per report.
        folder: the comparison's; its figures are drawn.
        part: whether the folder has studies besides, of which nothing is said.
    """
    record = read_settings(folder)
    if part:
        record = _of_frame(record, frame)
    spending = read_spending(folder)
    tasks = sorted(frame["task"].unique())
    table = ranking(frame)
    ranks = mean_ranks(task_scores(frame))
    flat, deep, moving = (stems(what, tasks) for what in (FLAT, DEEP, ANIMATION))
    return render(
        "comparison.html.j2",
        alarm=sentence(reasons_of(frame)),
        kind="Optimization" if "estimator" in record else "Comparison",
        tasks=tasks,
        methods=frame["method"].nunique(),
        seeds=frame["seed"].nunique(),
        studies=len(frame.drop_duplicates(STUDY)),
        finished=len(frame[frame["status"] == "final"].drop_duplicates(STUDY)),
        folder=folder,
        settings=_told(record) if "estimator" in record else _asked(record, frame),
        all_settings=_all_settings(record),
        rankings=rankings(table),
        overfitted=overfitted(frame),
        statistics=statistics(frame),
        lowest=_lowest(table),
        ranks=ranks,
        verdict=verdict(ranks),
        order=", ".join(f"{name} {rank:.2f}" for name, rank in ranks.mean.items()),
        paths=stems("trajectories", tasks),
        surfaces=[
            (task, flat[task], deep[task])
            for task in tasks
            if (folder / f"{flat[task]}.svg").is_file()
        ],
        optimized=(folder / "loss_curves.svg").is_file(),
        animations={
            task: stem
            for task, stem in moving.items()
            if (folder / f"{stem}.gif").is_file()
        },
        budgets=budget_table(frame, record.get("budgets", {})),
        trust=trust_columns(frame),
        failures=failure_columns(frame),
        skipped=skipped_columns(spending),
        evidence=evidence_columns(read_evidence(folder)),
        spending={"mismatches": [], "flops": {}} | spending,
        runs=record.get("runs", []),
    )


def _asked(record: Record, frame: pd.DataFrame) -> dict[str, str]:
    """Methods, seeds and budgets, from the record or else from the frame."""
    seeds = record.get("seeds", sorted(map(int, frame["seed"].unique())))
    methods = record.get("methods", frame["method"].unique())
    asked = {"methods": ", ".join(methods), "seeds": ", ".join(map(str, seeds))}
    for name, task in record.get("tasks", {}).items():
        budget = record["budgets"][name]
        steps = f"{task['horizon']:,} steps a run"
        asked[name] = f"{steps}; budget {budget:,.0f} evaluations"
    return asked


def _of_frame(record: Record, frame: pd.DataFrame) -> Record:
    """The record of what a frame has."""
    own = {
        what: {name: record[what][name] for name in record[what] if name in some}
        for what, some in (
            ("tasks", set(frame["task"])),
            ("budgets", set(frame["task"])),
            ("methods", set(frame["method"])),
        )
        if what in record
    }
    seeds = [seed for seed in record.get("seeds", []) if seed in set(frame["seed"])]
    return {**record, **own, "seeds": seeds}


def _all_settings(record: Record) -> dict[str, str]:
    """Spaces and settings of the tasks and of the methods; none without a record."""
    tasks = record.get("tasks", {})
    spaces = {f"{name}: space": task["space"] for name, task in tasks.items()}
    own = {f"{name}: settings": task["settings"] for name, task in tasks.items()}
    return {**spaces, **own, **record.get("methods", {})} if tasks else {}


def _told(record: Record) -> dict[str, str]:
    """What an optimization was told; what it was not is the default of its task."""
    told = {name: value for name, value in record.items() if name != "runs"}
    return {
        name: "automatic" if value is None else str(value)
        for name, value in told.items()
    }


def _lowest(table: pd.DataFrame) -> str:
    """Which method ends lowest on each task, and where."""
    best = table.dropna(subset=["best_outer_loss"]).groupby("task").first()
    return "; ".join(
        f"on {task}, {row.method} ends lowest, at {number(row.best_outer_loss)}"
        for task, row in best.iterrows()
    )
