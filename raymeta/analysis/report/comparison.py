"""The page of a comparison."""

from pathlib import Path

import pandas as pd

from raymeta.analysis.figures.comparison import ANIMATION, DEEP, FLAT, stems
from raymeta.analysis.figures.critical_difference import verdict
from raymeta.analysis.report.budgets import budget_table, failures, skipped
from raymeta.analysis.report.html import (
    Markup,
    Section,
    folded,
    heading,
    moving_picture,
    page,
    paragraph,
    picture,
)
from raymeta.analysis.report.record import (
    Record,
    environment,
    evidence,
    pairs,
    read_record,
    read_settings,
)
from raymeta.analysis.report.results import rank_table, statistics
from raymeta.analysis.tables.frames import CELL
from raymeta.analysis.tables.ranking import alarms, notes, ranking
from raymeta.analysis.tables.ranks import mean_ranks, task_scores
from raymeta.analysis.tables.text import number
from raymeta.results.schema import current_record
from raymeta.results.validity import reasons_of, sentence

Body = list[Markup]


def comparison_page(frame: pd.DataFrame, folder: Path) -> str:
    """Write the page.

    Args:
        frame: One row per report.
        folder: Of the comparison; its figures are drawn.
    """
    record = read_settings(folder)
    spending = current_record(read_record(folder, "spending.json"))
    tasks = sorted(frame["task"].unique())
    cells = len(frame.drop_duplicates(CELL))
    finished = len(frame[frame["status"] == "final"].drop_duplicates(CELL))
    state = "finished" if finished == cells else f"{finished} of {cells} cells finished"
    counts = [
        _count(frame["method"].nunique(), "method"),
        _count(len(tasks), "task"),
        _count(frame["seed"].nunique(), "seed"),
    ]
    table_ = ranking(frame)
    sections = [
        Section("What was asked", _asked(record, frame)),
        Section("Ranking", _ranking(table_)),
        Section("Differences, targets, areas", statistics(frame)),
        Section("Loss against evaluations", _anytime(table_, folder, "gradient_evals")),
        Section("Loss against seconds", _anytime(table_, folder, "wall_s")),
        Section("Ranks over tasks", _ranks(frame, folder)),
        Section("Hyperparameters on the way", _trajectories(tasks, folder)),
        Section("Loss surface", _surfaces(tasks, folder)),
        Section("Loss curves while learning", _curves(tasks, folder)),
        Section("Budget", budget_table(frame, record.get("budgets", {}))),
        Section("Failures", failures(frame)),
        Section("Skipped", skipped(spending)),
        evidence(read_record(folder, "evidence.json"), spending),
        environment(record),
    ]
    title = ", ".join(tasks) or "No report yet"
    kind = "Optimization" if "estimator" in record else "Comparison"
    subtitle = f"{kind}: {', '.join(counts)}; {state}. {folder.name}"
    return page(title, subtitle, sections, sentence(reasons_of(frame)))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _asked(record: Record, frame: pd.DataFrame) -> Body:
    """Tasks, methods, seeds and budgets, from the record or else from the frame."""
    if "estimator" in record:
        return [pairs(_settings(record))]
    seeds = record.get("seeds", sorted(map(int, frame["seed"].unique())))
    methods = record.get("methods", dict.fromkeys(frame["method"].unique(), ""))
    said = {
        "methods": ", ".join(methods),
        "seeds": ", ".join(map(str, seeds)),
    }
    tasks = record.get("tasks", {})
    for name, task in tasks.items():
        budget = record["budgets"][name]
        said[name] = (
            f"{task['horizon']:,} steps a run; budget {budget:,.0f} evaluations"
        )
    body = [
        paragraph(
            "Each method gets the same budget of gradient evaluations (one forward "
            "and backward pass of the training loss costs 1) on the same problem: a "
            "seed is one choice of initial weights, split and batch order for all. "
            "What counts is the validation loss after a full run."
        ),
        pairs(said),
    ]
    if tasks:
        spaces = {f"{name}: space": task["space"] for name, task in tasks.items()}
        own = {f"{name}: settings": task["settings"] for name, task in tasks.items()}
        body.append(folded("All settings", [pairs({**spaces, **own, **methods})]))
    return body


def _settings(record: Record) -> dict[str, str]:
    """What an optimization was told; what it was not is the default of its task."""
    told = {name: value for name, value in record.items() if name != "runs"}
    return {
        name: "automatic" if value is None else str(value)
        for name, value in told.items()
    }


def _ranking(table_: pd.DataFrame) -> Body:
    body: Body = []
    for task, group in table_.groupby("task"):
        body += [heading(task), *map(paragraph, alarms(group)), rank_table(group)]
        if len(group) > 1:
            body += [paragraph(_sentence(note, group)) for note in notes(group)]
    return body or [paragraph("No report yet.")]


def _sentence(note: str, group: pd.DataFrame) -> str:
    """Begin with a capital, unless a method's name begins it."""
    names = note.startswith(tuple(group["method"]))
    return note + "." if names else note[0].upper() + note[1:] + "."


def _anytime(table_: pd.DataFrame, folder: Path, x: str) -> Body:
    unit = {"gradient_evals": "gradient evaluations", "wall_s": "seconds"}[x]
    best = table_.dropna(subset=["best_outer_loss"]).groupby("task").first()
    ends = "; ".join(
        f"on {task}, {row.method} ends lowest, at {number(row.best_outer_loss)}"
        for task, row in best.iterrows()
    )
    alt = f"Best validation loss so far against {unit}, a panel a task. {ends}"
    return [picture(folder / f"anytime_{x}", alt)]


def _ranks(frame: pd.DataFrame, folder: Path) -> Body:
    ranks = mean_ranks(task_scores(frame))
    if len(ranks.mean) < 2:
        return []
    order = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.mean.items())
    text = (
        "Methods are ranked on each task by their median final loss. Bars join methods "
        "whose mean ranks differ by less than the critical difference (Demšar 2006)."
    )
    if ranks.tasks < 5:
        text += f" {_count(ranks.tasks, 'task')} cannot settle which method is best."
    alt = f"Critical-difference diagram; {verdict(ranks)}. Mean ranks: {order}"
    return [paragraph(text), picture(folder / "ranks", alt)]


def _trajectories(tasks: list[str], folder: Path) -> Body:
    return [
        picture(
            folder / stem,
            f"Every hyperparameter of {task} against evaluations, a line per method",
        )
        for task, stem in stems("trajectories", tasks).items()
    ]


def _surfaces(tasks: list[str], folder: Path) -> Body:
    body: Body = []
    deep_stems = stems(DEEP, tasks)
    for task, flat in stems(FLAT, tasks).items():
        if (folder / f"{flat}.svg").is_file():
            alt = f"Contours of the loss of {task} with the way of every method"
            body.append(picture(folder / flat, alt))
            alt = f"Loss curves of {task} side by side, with the ways across them"
            body.append(picture(folder / deep_stems[task], alt))
    if body:
        text = (
            "Computed after the comparison, and charged to no method. Hyperparameters "
            "that are not shown stand still, at the best run's values; the methods "
            "moved them too."
        )
        body.insert(0, paragraph(text))
    return body


def _curves(tasks: list[str], folder: Path) -> Body:
    body: Body = []
    if (folder / "loss_curves.svg").is_file():
        body.append(
            picture(folder / "loss_curves", "Loss curves, from first to best run")
        )
    for task, stem in stems(ANIMATION, tasks).items():
        gif, still = folder / f"{stem}.gif", folder / f"{stem}.png"
        if gif.is_file():
            alt = f"Training of {task} improves from run to run"
            body.append(moving_picture(gif, still, alt))
    return body
