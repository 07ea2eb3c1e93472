"""The comparison: methods on tasks under seeds, at equal budgets, on Ray Tune."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from ray import tune
from ray.tune import Callback, RunConfig, TuneConfig, TuneError, Tuner

from raymeta.errors import require_arguments
from raymeta.process import preserved
from raymeta.results import schema
from raymeta.results.jsonlines import JsonLines
from raymeta.results.mirror import address
from raymeta.results.overfitting import Overfitting, overfitted
from raymeta.results.run_folder import RunFolder, run_address, run_name
from raymeta.results.validity import InvalidComparison, marked, reasons_of, sentence
from raymeta.runtime import ray_session, source_code
from raymeta.runtime.interrupt import Interrupt, goes_on
from raymeta.runtime.progress import Progress, clock
from raymeta.runtime.ray_session import running
from raymeta.runtime.serialization import pack
from raymeta.runtime.source_code import code_of
from raymeta.search.fairness import evidence_of, mismatches, spending_of
from raymeta.search.frame import to_frame
from raymeta.search.plan import Methods, Plan, Tasks, make_plan
from raymeta.search.progress import (
    evidence_lines,
    growth_lines,
    opening,
    progress_lines,
    ranking_lines,
    slots_lines,
)
from raymeta.search.resume import (
    cells_of,
    merged,
    require_same_code,
    require_same_training,
    require_same_values,
    require_settings,
    with_larger_budget,
)
from raymeta.search.study.coordinator import Coordinator, evidence_in, standing
from raymeta.search.study.study import Study
from raymeta.search.tune.bridge import BridgeScheduler, BridgeSearcher, Pulse
from raymeta.search.tune.quiet import quiet_tune
from raymeta.search.tune.registry import trainables_looked_up_once
from raymeta.search.tune.run_options import RunOptions, Stop, run_options
from raymeta.search.tune.search_study import study_of
from raymeta.search.whole_frame import FrameSaver, WholeFrame, of_studies
from raymeta.search.worker.trial_runner import run_trial
from raymeta.search.worker.trial_store import TrialStore
from raymeta.tasks import loading

#: The last line of a journal from before the mark was in the folder's record.
FINISHED = {"event": "finished"}


@preserved()
def compare(
    tasks: Tasks,
    methods: Methods | None = None,
    *,
    budget: float | None = None,
    seeds: int | Iterable[int] = 3,
    name: str | None = None,
    storage: str | Path = "results",
    slots: int | None = None,
    at_once: int = 1,
    workers_per_trial: int = 1,
    gpus_per_trial: float = 0.0,
    resources_per_trial: Mapping[str, float] | None = None,
    callbacks: Sequence[Callback] | None = None,
    stop: Stop = None,
    keep_tune: bool = False,
    progress: bool | Callable[[str], None] = True,
    ranking: bool = True,
) -> pd.DataFrame:
    """Compare methods on tasks at equal budgets, on Ray Tune.

    A Ray that runs already, or that `RAY_ADDRESS` names, is used; otherwise an embedded
    one starts and ends with the comparison. Everything that trials report is kept: the
    same call with the same name continues an interrupted comparison, and returns the
    frame of a finished one. With more tasks, methods or seeds, or a larger budget, it
    grows: what is there is kept, see docs/fairness.md; with fewer it shows fewer.

    What descents, hybrids and restarts find is never worse than training at the space's
    initial values, which they do first; a warning says so where the budget is too small
    for that.

    Args:
        tasks: names, `path.py:Name` of what is in a file, `Task` objects, or a list.
        methods: names of methods or estimators, method objects, or a list of them;
            "all" is every registered one; `raymeta.search.methods.DEFAULT` by
            default. A method whose packages are missing is skipped, and so is one on a
            task that it refuses or whose budget does not cover one of its runs; the
            opening lines say so.
        budget: gradient evaluations per (task, method, seed); by default each task's.
        seeds: how many, or which. A seed is the same problem for all methods.
        name: name of the folder of results; tasks and time by default.
        storage: the folder that holds it; or its address on an object store.
        slots: trials at once; as many as Ray has CPUs for at the start by default. More
            than that lets an autoscaling cluster grow. How many there are, and which
            trial is over first, changes no result.
        at_once: trials that a search has in flight where what it suggests or stops
            depends on the results so far (TPE, ASHA, …; see docs/fairness.md). With
            more than one, it depends on the order in which they arrive, too.
        workers_per_trial: processes that compute each trial together, each its share of
            every batch and of the validation set, see
            `raymeta.distributed.data_parallel`. Losses are those of one process up to
            rounding, and so are the charges.
        gpus_per_trial: GPUs, or the share of one, that each trial holds; it finds them
            as `cuda` devices, and the task says what runs there. Its workers get as
            many each.
        resources_per_trial: what each trial holds, by name, in equal shares for its
            workers; one CPU for each of them by default. A worker computes in one
            thread whatever it holds.
        callbacks: of Tune (MLflow's, W&B's, your own): they see every trial's `task`,
            `method`, `seed`, `trial` and `hp/<name>` in its config, and losses and
            hyperparameters in its results. One that raises is warned of.
        stop: ends trials early, as in `tune.RunConfig`: thresholds by metric, a
            function of a trial's id and result, or a stopper. What they had is kept and
            the rest of their budget given back. Where a stopper ends it all, the frame
            has what was reported until then, and the same call goes on.
        keep_tune: whether the folder keeps Tune's own experiment, `tune/1` (after an
            interruption `tune/2`, …), for `tune.ExperimentAnalysis`.
        progress: whether to print progress, or what takes its lines.
        ranking: whether what is printed ends with the ranking, and with the call that
            draws figures and page.

    Returns:
        The frame, one row per report (see docs/fairness.md), as in
        `<storage>/<name>/frame.parquet`. Beside it, evidence.json and spending.json
        say what methods trained on and spent: see `evidence_of` and `spending_of`.
        Where methods did not train on the same, its column `invalid` says why, and an
        `InvalidComparison` warns; where the validation set was overfitted, an
        `Overfitting`, see `raymeta.results.overfitting`.

    Raises:
        ValueError: something is unknown, missing, given twice or impossible; all
            methods lack packages; the name belongs to a comparison with other settings
            or of other code, or to one that grows and trained on something else.
        KeyboardInterrupt: Ctrl-C; one line says where what was reported is, and that
            the same call goes on.
    """
    require_arguments(
        compare,
        slots=slots,
        at_once=at_once,
        gpus_per_trial=gpus_per_trial,
        resources_per_trial=resources_per_trial,
        callbacks=callbacks,
        keep_tune=keep_tune,
        progress=progress,
        ranking=ranking,
    )
    if slots is not None and slots < 1:
        raise ValueError(f"slots must be at least 1, but got {slots}")
    plan = make_plan(tasks, methods, budget, seeds, at_once, workers_per_trial)
    options = run_options(
        callbacks,
        stop,
        resources_per_trial,
        gpus_per_trial,
        keep_tune,
        plan.workers_per_trial,
    )
    code = code_of(plan.tasks, plan.methods)  # of tasks that have not run yet
    name = run_name(storage, name, [task.name for task in plan.tasks])
    display = Progress(progress)
    display.print(opening(plan, run_address(storage, name)))
    for line in plan.unsure():
        warnings.warn(line, stacklevel=2)
    with quiet_tune():
        studies = [study_of(spec) for spec in plan.study_specs()]
        plan.require_names()
    with (
        goes_on(name),
        RunFolder.open(
            storage, name, "comparison", plan.settings(), require=require_settings
        ) as folder,
    ):
        frame = _compared(plan, studies, code, folder, display, slots, options)
    if ranking and progress is True:
        display.print(ranking_lines(frame, run_address(storage, name)))
    return _warned(frame)


def _compared(
    plan: Plan,
    studies: list[Study],
    code: Mapping[str, str],
    folder: RunFolder,
    display: Progress,
    slots: int | None,
    options: RunOptions,
) -> pd.DataFrame:
    """The frame of a comparison, from its folder's journal and what remains to run."""
    states = TrialStore(address(folder.path / ".states"))
    with closing(JsonLines(folder.path / "journal.jsonl")) as journal, quiet_tune():
        lines = journal.read()
        events, begun = standing(lines), bool(lines)
        asked = plan.cells()
        known = cells_of(folder.record)
        if FINISHED in lines:
            known = dict.fromkeys(known, True)
        larger = with_larger_budget(folder.record, plan)
        grown = [key for key in larger if str(key) in known]
        known |= dict.fromkeys(map(str, grown), False)
        finished = folder.frame.exists() and all(known.get(cell) for cell in asked)
        if not finished:
            _require_journal(folder, begun=begun)
            journal.begin()
            if journal.damage:
                warnings.warn(journal.damage, stacklevel=4)
        require_same_code(folder, code, begun=begun, plan=plan)
        if finished:
            display.print(["it had finished before"])
            return of_studies(marked(folder.read(), folder.path), asked)
        if begun and (grown or not asked <= known.keys()):
            require_same_training(folder, plan, evidence_in(events))
        require_same_values(folder, plan, begun=begun)
        coordinator = Coordinator(studies, journal, states)
        coordinator.replay(events, grown)
        folder.note(
            **merged(folder.record, plan.settings()),
            code=source_code.joined(folder.noted("code"), code),
            cells=dict.fromkeys(asked, False) | known,
        )
        display.print(growth_lines(studies, known, grown))
        display.print(_stop_lines(folder, options.stops, begun=begun))
        whole = WholeFrame(folder, asked)
        whole.write(to_frame(studies))  # readable from now on
        if not coordinator.finished:
            if not _run(plan, coordinator, whole, states, display, slots, options):
                display.print(["stopped by stop=: the same call without it goes on"])
                return of_studies(folder.read(), asked)
            assert coordinator.finished
        frame = to_frame(studies)
        whole.write(frame)
        evidence, spending = evidence_of(studies), spending_of(studies)
        unfair = mismatches(evidence)
        whole.write_records(evidence, _spending(plan, spending, unfair))
        folder.note(cells=folder.noted("cells") | dict.fromkeys(asked, True))
        states.clear()
    display.print(progress_lines(coordinator.progress(), display.elapsed))
    display.print(evidence_lines(evidence, unfair, spending, plan.methods))
    display.print([f"finished in {clock(display.elapsed)}: {address(folder.frame)}"])
    return frame


def _require_journal(folder: RunFolder, *, begun: bool) -> None:
    """Raise ValueError where a journal is gone that a frame was made of."""
    if not begun and folder.frame.exists() and len(folder.read()):
        raise ValueError(
            f"{folder.path / 'journal.jsonl'} has no line, but {folder.frame} has what "
            "trials reported: restore the journal from a copy, or use another name"
        )


def _stop_lines(folder: RunFolder, stops: str, *, begun: bool) -> list[str]:
    """Note what ends trials early; say so where another `stop` has done it before."""
    then = folder.noted("stop") or "None"
    folder.note(stop=stops)
    if not begun or then == stops:
        return []
    return [
        f"begun with stop={then}, now stop={stops}: trials that it has ended stay ended"
    ]


def _warned(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame; what is wrong with it is said even without progress."""
    for line in overfitted(frame):
        warnings.warn(line, Overfitting, stacklevel=4)
    if said := sentence(reasons_of(frame)):
        warnings.warn(said, InvalidComparison, stacklevel=4)
    return frame


def _spending(
    plan: Plan, studies: list[dict[str, Any]], unfair: list[str]
) -> dict[str, Any]:
    """What spending.json holds."""
    skipped = [
        {"task": task, "method": method, "reason": reason}
        for (task, method), reason in plan.unfit().items()
    ]
    lacking = [
        {"task": task.name, "method": method, "reason": reason}
        for task in plan.tasks
        for method, reason in plan.skipped.items()
    ]
    return {
        schema.KEY: schema.VERSION,
        "valid": not unfair,
        "mismatches": unfair,
        "flops": {spec.task.name: spec.flops for spec in plan.study_specs()},
        "skipped": skipped + lacking,
        "cells": studies,  # as files of before call them
    }


def _run(
    plan: Plan,
    coordinator: Coordinator,
    whole: WholeFrame,
    states: TrialStore,
    display: Progress,
    slots: int | None,
    options: RunOptions,
) -> bool:
    """Run what the coordinator asks for; whether to the end, or to the user's stop."""
    folder = whole.folder
    saver = FrameSaver(coordinator, whole)
    # What Tune writes, which nobody reads unless it is to be kept.
    scratch = folder.path / ("tune" if options.keep else ".tune")
    number = 1 + sum(1 for _ in scratch.glob("[0-9]*"))

    shown: list[str] = []

    def on_tick() -> None:
        folder.require_there()
        if (error := coordinator.first_error) and not shown:
            shown.append(error)
            where = address(folder.frame)
            display.print(
                [f"a trial raises: {error}", f"  others: column failure of {where}"]
            )
        display.update(
            lambda width: progress_lines(coordinator.progress(), display.elapsed, width)
        )
        saver.save_if_due()

    folder.record_run(loading.sources(task.name for task in plan.tasks))
    done = fmean(study.share for study in coordinator.progress())
    display.print(
        [f"starting Ray, to continue from {done:.0%}" if done else "starting Ray"]
    )
    ray_goes_on = ray_session.ray.is_initialized()
    cpus = options.resources["CPU"]
    with running(slots, cpus) as concurrent, Interrupt() as interrupt:
        display.print(
            [
                *slots_lines(coordinator.studies.values(), concurrent, display.elapsed),
                "first, workers import torch, which takes 5 to 40 s",
            ]
        )
        options.require_room(growing=slots is not None)
        pulse = Pulse(interrupt, on_tick, ray_goes_on, options.stop)
        tuner = Tuner(
            _trainable(plan, states, options),
            tune_config=TuneConfig(
                search_alg=BridgeSearcher(coordinator, interrupt),
                scheduler=BridgeScheduler(
                    coordinator, interrupt, options.stop, options.keep
                ),
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=concurrent,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name=str(number),
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[pulse, *options.guarded()],
                stop=pulse,
            ),
        )
        try:
            with trainables_looked_up_once():
                tuner.fit()
        except TuneError as error:
            raise _origin(error) from None
        except KeyboardInterrupt:
            if not pulse.stopped:
                raise
        finally:
            saver.save()  # before Ray goes, which takes a second or two
            if not options.keep:
                shutil.rmtree(scratch, ignore_errors=True)
        ended = coordinator.finished or pulse.stopped
        if interrupt.requested and not ended:
            raise KeyboardInterrupt
    return coordinator.finished


def _origin(error: BaseException) -> BaseException:
    """What Tune has wrapped: its own text advises to call `Tuner.restore`."""
    while isinstance(error, TuneError):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _trainable(
    plan: Plan, states: TrialStore, options: RunOptions
) -> Callable[[dict[str, Any]], None]:
    """The trainable of all trials, with what one holds.

    Raises:
        ValueError: a task or method cannot be sent to a worker.
    """
    tasks = {task.name: task for task in plan.tasks}
    methods = {method.name: method for method in plan.methods}
    payload = pack((tasks, methods), "tasks and methods", loading.modules())
    flops = {spec.task.name: spec.flops for spec in plan.study_specs()}
    trainable = tune.with_parameters(
        run_trial,
        payload=payload,
        states=states,
        flops=flops,
        workers=options.workers,
        bundle=options.bundle,
    )
    return tune.with_resources(trainable, options.placement)
