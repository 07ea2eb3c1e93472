"""The page of a meta-training run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from raymeta.analysis.report.html import Section, page, paragraph, picture, table
from raymeta.analysis.report.record import environment, pairs, read_record
from raymeta.analysis.tables.text import number
from raymeta.analysis.tables.training import describe, held_out, metrics, read_published

#: What the record holds besides settings.
OTHERS = ("runs", "published", "finished", "knobs", "code")


def training_page(frame: pd.DataFrame, folder: Path) -> str:
    """Write the page.

    Args:
        frame: Of `read_training`.
        folder: Of the run; its figures are drawn.
    """
    record = read_record(folder, "training.json")
    title = f"{record['algorithm']} on {record['family']}"
    seeds = sorted(frame["seed"].unique())
    steps = frame.loc[frame["split"] == "train", "outer_step"].max() + 1
    state = "finished" if record.get("finished") else "not finished"
    subtitle = (
        f"Meta-training: {steps:,.0f} outer steps, {len(seeds)} "
        f"seed{'s' * (len(seeds) > 1)}; {state}. {folder.name}"
    )
    sections = [
        Section("What was asked", [_asked(record)]),
        Section("Evaluation on test tasks", _evaluation(frame, folder)),
        Section("Loss", [_loss(frame, folder)]),
        Section("What was learnt", _learnt(folder, seeds)),
        Section("Failures", [paragraph(_failures(frame))]),
        environment(record),
    ]
    return page(title, subtitle, sections)


def _asked(record: dict[str, Any]) -> Any:
    settings = {k: v for k, v in record.items() if k not in OTHERS}
    goal = record.get("finished") or {}
    shown = {**settings, **record.get("knobs", {}), **goal}
    return pairs(
        {name.replace("_", " "): _said(value) for name, value in shown.items()}
    )


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value).replace("null", "none").strip("[]")


def _evaluation(frame: pd.DataFrame, folder: Path) -> list[Any]:
    test = held_out(frame, "test")
    if test.empty:
        return [paragraph("Not evaluated on test tasks yet.")]
    columns = {
        "inner steps": [f"{n:.0f}" for n in test["inner_steps"]],
        "loss": [number(x) for x in test["mean"]],
        "± (95 %)": [number(x) for x in test["ci95"]],
        "median": [number(x) for x in test["median"]],
    }
    for name in metrics(frame):
        its = held_out(frame, "test", name)
        columns[name] = [number(x) for x in its["mean"]]
        columns[f"± of {name}"] = [number(x) for x in its["ci95"]]
    text = (
        f"{test['tasks'].iloc[0]:,.0f} tasks that training has not seen, per seed; "
        "mean over tasks with its 95 % interval, after so many inner steps."
    )
    papers = [paragraph(describe(figure)) for figure in read_published(folder)]
    return [paragraph(text), table(columns), *papers]


def _loss(frame: pd.DataFrame, folder: Path) -> Any:
    train = frame[(frame["split"] == "train") & ~frame["skipped"]]
    ends = train.sort_values("outer_step")["outer_loss"]
    alt = "Loss of meta-training over outer steps, and of adaptation over inner steps"
    if len(ends):
        alt += (
            f"; the training loss goes from {ends.iloc[0]:.4g} to {ends.iloc[-1]:.4g}"
        )
    return picture(folder / "meta_loss", alt)


def _learnt(folder: Path, seeds: list[int]) -> list[Any]:
    drawn = [s for s in seeds if (folder / f"learnt_seed_{s}.svg").is_file()]
    return [
        picture(folder / f"learnt_seed_{seed}", f"Learnt, seed {seed}", photo=True)
        for seed in drawn
    ]


def _failures(frame: pd.DataFrame) -> str:
    skipped = frame[frame["skipped"]].groupby(["seed", "outer_step"]).ngroups
    if not skipped:
        return "No outer update was skipped."
    return f"{skipped} outer updates were skipped: their gradient was not finite."
