"""Live progress of a comparison for people: from standings to lines."""

import math
import statistics
from collections.abc import Sequence

from raymeta.progress import WIDTH, clock, count, wrap
from raymeta.search.ledger import Standing
from raymeta.search.plan import Plan


def opening(plan: Plan, folder: str) -> list[str]:
    """What will run, and where the results go."""
    seeds = ", ".join(map(str, plan.seeds))
    sizes = [
        count(len(plan.methods), "method"),
        count(len(plan.tasks), "task"),
        count(len(plan.seeds), "seed"),
    ]
    cells = len(plan.methods) * len(plan.tasks) * len(plan.seeds)
    budgets = [f"{name} {budget:,g}" for name, budget in plan.budgets.items()]
    return [
        *wrap("comparing", [method.name for method in plan.methods]),
        *(f"skipping {name}: {need}" for name, need in plan.skipped.items()),
        *wrap("on", [task.name for task in plan.tasks]),
        *wrap(f"{' x '.join(sizes)} ({seeds}) =", [count(cells, "cell")]),
        *wrap("gradient evaluations per cell:", budgets),
        f"results go to {folder}",
    ]


def progress_lines(
    standings: Sequence[Standing], elapsed: float, width: int = WIDTH
) -> list[str]:
    """Per task: time, then by method budget and best median, then trials and errors."""
    tasks = dict.fromkeys(standing.cell.task for standing in standings)
    return [
        line
        for task in tasks
        for line in _task_lines(
            task, [s for s in standings if s.cell.task == task], elapsed, width
        )
    ]


def _task_lines(
    task: str, standings: list[Standing], elapsed: float, width: int
) -> list[str]:
    running = sum(standing.running for standing in standings)
    failed = sum(standing.failed for standing in standings)
    methods = dict.fromkeys(standing.cell.method for standing in standings)
    parts = [
        _method_part(method, [s for s in standings if s.cell.method == method])
        for method in methods
    ]
    trials = f"{running} running" + (f", {failed} failed" if failed else "")
    errors = {s.cell.method: s.error for s in reversed(standings) if s.error}
    return [
        *wrap(f"{clock(elapsed)} {task}:", [*parts, trials], " | ", width),
        *(f"  {method}: {error}"[:width] for method, error in errors.items()),
    ]


def _method_part(method: str, standings: list[Standing]) -> str:
    share = math.floor(100 * statistics.fmean(s.share for s in standings))
    best = statistics.median(standing.best for standing in standings)
    value = f"{best:.4g}" if math.isfinite(best) else "-"
    return f"{method} {share:>2}% {value:<6}"
