"""The page of a meta-training run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from raymeta.analysis.report.rendering import render
from raymeta.analysis.tables.training import (
    describe,
    evaluation_columns,
    read_published,
    skipped_updates,
)
from raymeta.results.records import Record, read_record

#: What the record holds besides settings.
OTHERS = ("runs", "published", "finished", "knobs", "code", "schema")


def training_page(frame: pd.DataFrame, folder: Path) -> str:
    """Write the page.

    Args:
        frame: see `read_training`.
        folder: the run's; its figures are drawn.
    """
    record = read_record(folder, "training")
    train, test = (frame[frame["split"] == split] for split in ("train", "test"))
    seeds = sorted(frame["seed"].unique())
    return render(
        "training.html.j2",
        alarm="",
        algorithm=record["algorithm"],
        family=record["family"],
        finished=bool(record.get("finished")),
        outer_steps=0 if train.empty else train["outer_step"].max() + 1,
        seeds=len(seeds),
        folder=folder,
        settings=_asked(record),
        test_tasks=test["tasks"].iloc[0] if len(test) else 0,
        test_columns=evaluation_columns(frame, "± (95 %)"),
        published=[describe(figure) for figure in read_published(folder)],
        ends=_ends(train),
        drawn=[s for s in seeds if (folder / f"learnt_seed_{s}.svg").is_file()],
        skipped=skipped_updates(frame),
        runs=record.get("runs", []),
    )


def _asked(record: Record) -> dict[str, str]:
    settings = {k: v for k, v in record.items() if k not in OTHERS}
    goal = record.get("finished") or {}
    shown = {**settings, **record.get("knobs", {}), **goal}
    return {name.replace("_", " "): _said(value) for name, value in shown.items()}


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value).replace("null", "none").strip("[]")


def _ends(train: pd.DataFrame) -> str:
    """The first and the last training loss; nothing before there is one."""
    losses = train[~train["skipped"]].sort_values("outer_step")["outer_loss"]
    if losses.empty:
        return ""
    first, last = losses.iloc[0], losses.iloc[-1]
    return f"; the training loss goes from {first:.4g} to {last:.4g}"
