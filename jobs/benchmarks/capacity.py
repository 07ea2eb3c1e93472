"""How far a cluster carries these jobs: time, memory of the head, money, first limit.

Measures on this machine what a driver pays for a trial (its coordinator, journal and
frame, and Ray Tune's own part), and what a step of meta-training takes, sends and
saves; then works out 64 GPUs, 1,000 trials at once and 100,000 trials. `--ray-trials 0`
leaves Tune out, and with it Ray. Prices and the network are flags: AWS's list in
us-west-2.
"""

import argparse
import io
import itertools
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from jobs.benchmarks.all_reduce import AllReduce
from jobs.benchmarks.driver import (
    FRAME_REPORTS,
    Driver,
    Trivial,
    drive,
    keep_books,
    plan_of,
    resident,
    target_lines,
    timed,
)
from raymeta.cli import exit_code
from raymeta.meta import MetaModule
from raymeta.train import recipe


def drive_on_ray(trials: int, slots: int, folder: Path) -> Driver:
    """The same on Ray Tune, with so many workers.

    Seconds are those of the driver's processor: workers on this machine, and all that
    runs here besides, would be in those of a clock.
    """
    from raymeta.search import compare

    marks: list[tuple[float, int]] = []

    def note(line: str) -> None:
        if "Ray is up" in line:
            marks.append((time.process_time(), resident()))

    budget = plan_of(trials).study_specs()[0].budget
    # In the background, Python's own memory and Ray's grow at first: half is left out.
    compare(
        Trivial(), "random", budget=budget, seeds=1, slots=slots, storage=folder,
        name="ray", progress=note,
    )  # fmt: skip
    began, before = marks[0]
    took, grown = time.process_time() - began, resident() - before
    home = folder / "ray"
    disk = sum(path.stat().st_size for path in home.iterdir() if path.is_file())
    return Driver(trials, took / trials, grown / trials, disk / trials, 0.0, 0.0)


def drive_empty_tune(trials: int, slots: int, folder: Path) -> Driver:
    """Ray Tune alone: a function that reports a number, and a searcher that counts."""
    from ray import tune
    from ray.tune.search import Searcher

    from raymeta.runtime import ray_session

    class Counting(Searcher):
        """Suggests so many numbers."""

        left = trials

        def suggest(self, trial_id: str) -> Any:
            self.left -= 1
            return {"x": self.left} if self.left >= 0 else Searcher.FINISHED

        def on_trial_complete(self, *told: Any, **more: Any) -> None:
            pass

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def save(self, checkpoint_path: str) -> None:
            pass

    tuner = tune.Tuner(
        tune.with_resources(lambda config: tune.report({"loss": 1.0}), {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=Counting(),
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=slots,
        ),
        run_config=tune.RunConfig(name="x", storage_path=str(folder), verbose=0),
    )
    with ray_session.running(slots):
        began, before = time.process_time(), resident()
        tuner.fit()
        took, grown = time.process_time() - began, resident() - before
    return Driver(trials, took / trials, grown / trials, 0.0, 0.0, 0.0)


class Training(NamedTuple):
    """What a step of meta-training costs a worker.

    Attributes:
        task_s: seconds of one task of the step, here.
        gradient_bytes: bytes that all workers average.
        checkpoint_bytes: bytes of a checkpoint's file.
    """

    task_s: float
    gradient_bytes: int
    checkpoint_bytes: int


def measure_training(algorithm: str, family: str, steps: int = 20) -> Training:
    """Some outer steps in this process."""
    config = recipe(algorithm, family)
    module = MetaModule(config.learner(0))
    outer = config.make_optimizer(module.parameters(), config.outer_lr)
    seconds: list[float] = []

    def step(number: int) -> None:
        count = config.tasks_per_step
        tasks = config.family.episodes(number, count, 0, count, seed=0, split="train")
        outer.zero_grad()
        module(tasks).loss.backward()
        outer.step()

    for number in range(steps):
        timed(partial(step, number), seconds)
    file = io.BytesIO()
    torch.save({"theta": module.theta(), "optimizer": outer.state_dict()}, file)
    return Training(
        task_s=sorted(seconds)[steps // 2] / config.tasks_per_step,
        gradient_bytes=sum(4 * p.numel() for p in module.parameters()),
        checkpoint_bytes=len(file.getvalue()),
    )


def training_lines(cost: Training, settings: argparse.Namespace) -> list[str]:
    """One worker against 64, at as many tasks per worker, and what it costs."""
    network = AllReduce(settings.latency_s, 8 / (settings.gbit * 1e9))
    lines = []
    for workers, tasks in itertools.product((1, 8, 64), (4, 64)):
        compute = tasks * cost.task_s
        talk = network.seconds(cost.gradient_bytes, workers)
        share = compute / (compute + talk)
        money = workers * settings.gpu_price + settings.head_price
        rate = workers * tasks / (compute + talk)
        lines.append(
            f"  {workers:>2} workers x {tasks:>2} tasks: {compute * 1e3:6.1f} ms, "
            f"all-reduce {talk * 1e3:6.2f} ms a step, efficiency {share:4.0%}, "
            f"{rate:9,.0f} tasks/s, ${money:.2f}/h"
        )
    return lines


def search_lines(driver: Driver, settings: argparse.Namespace) -> list[str]:
    """1,000 trials at once and 100,000 in all, on the CPU workers."""
    at_once, total = settings.at_once, settings.trials_in_all
    shortest = at_once * driver.trial_s
    memory = driver.trial_bytes * total
    driving = driver.seconds(total)
    longest = max(settings.trial_minutes * 60 * total / at_once, driving)
    nodes = -(-at_once // settings.cpus_per_node)
    money = (nodes * settings.cpu_price + settings.head_price) * longest / 3600
    return [
        f"  the driver starts and hears {1 / driver.trial_s:,.0f} trials a second: "
        f"{at_once:,} at once are busy if a trial takes {shortest:.0f} s or more",
        f"  {total:,} trials: {driving / 3600:.1f} h of the driver, "
        f"{memory / 2**30:.2f} GiB of the head's memory (of {settings.head_gib:g}), "
        f"{driver.trial_disk * total / 2**20:,.0f} MiB on the disk",
        f"  trials of {settings.trial_minutes:g} min on {nodes} CPU workers: "
        f"{longest / 3600:.1f} h, ${money:,.0f}",
    ]


def first_limit(driver: Driver, settings: argparse.Namespace) -> str:
    """Which of the driver's rate, its memory and the nodes ends growth."""
    at_once = settings.at_once
    limits = {
        "trials at once that the driver keeps busy (its rate)": (
            settings.trial_minutes * 60 / driver.trial_s / at_once
        ),
        "trials in all that the head's memory holds": (
            settings.head_gib * 2**30 / 2 / driver.trial_bytes / settings.trials_in_all
            if driver.trial_bytes > 0
            else float("inf")
        ),
        "CPUs of cluster.yaml's max_workers": settings.cpus / at_once,
    }
    name = min(limits, key=lambda key: limits[key])
    return f"first limit: {name}, at {limits[name]:.2g} times what is asked for"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parse.add_argument
    add("--trials", type=int, default=10_000, help="trivial trials without Ray")
    add("--ray-trials", type=int, default=1_000, help="trivial trials on Ray Tune")
    add("--in-flight", type=int, default=64, help="of those without Ray in flight")
    add("--slots", type=int, default=4, help="workers of those on Ray Tune: in flight")
    add("--cells", type=int, default=1_000, help="finished cells beside which to ask")
    add("--reports", type=int, default=FRAME_REPORTS, help="reports of a frame")
    add("--algorithm", default="maml", help="meta-learning algorithm, by name")
    add("--family", default="sinusoid", help="family of tasks, by name")
    add("--at-once", type=int, default=1_000, help="trials at once to plan for")
    add("--trials-in-all", type=int, default=100_000, help="trials to plan for")
    add("--trial-minutes", type=float, default=5.0, help="minutes that a trial takes")
    add("--gbit", type=float, default=10.0, help="network of a worker, in Gbit/s")
    add(
        "--latency-s",
        type=float,
        default=50e-6,
        help="seconds of a hop",
    )
    add("--cpus", type=int, default=128, help="CPUs of all CPU workers together")
    add("--cpus-per-node", type=int, default=8)
    add("--head-gib", type=float, default=16.0, help="memory of the head")
    add("--head-price", type=float, default=0.22, help="$/h, with its disk")
    add("--cpu-price", type=float, default=0.17, help="$/h of a CPU worker, on spot")
    add("--gpu-price", type=float, default=0.47, help="$/h of a GPU worker, on spot")
    add("--json", help="file for the measurements")
    return parse


def main(arguments: list[str] | None = None) -> None:
    """Measure, then plan."""
    settings = parser().parse_args(arguments)
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "alone").mkdir()
        alone = drive(settings.trials, settings.in_flight, folder / "alone")
        measured["without_ray"] = alone._asdict()
        say("without Ray", settings.trials, alone)
        print(
            f"  a trial costs {alone.growth_s * 1e6:.3f} us more than the one before "
            f"in its study; the frame is written in {alone.save_s:.2f} s"
        )
        books = keep_books(settings.cells, settings.reports, folder)
        measured["books"] = books._asdict()
        print("\n".join(target_lines(alone, books)), flush=True)
        driver = alone
        if settings.ray_trials:
            driver = drive_on_ray(settings.ray_trials, settings.slots, folder)
            measured["on_ray"] = driver._asdict()
            say("on Ray Tune", settings.ray_trials, driver)
            empty = drive_empty_tune(settings.ray_trials, settings.slots, folder)
            measured["empty_tune"] = empty._asdict()
            say("of Ray Tune alone", settings.ray_trials, empty)
    cost = measure_training(settings.algorithm, settings.family)
    measured["training"] = cost._asdict()
    print(
        f"{settings.algorithm} on {settings.family}: {cost.task_s * 1e3:.2f} ms a task "
        f"on this CPU, {cost.gradient_bytes:,} bytes an all-reduce, "
        f"{cost.checkpoint_bytes:,} a checkpoint"
    )
    print(f"meta-training over {settings.gbit:g} Gbit/s:")
    print("\n".join(training_lines(cost, settings)))
    print(f"{settings.at_once:,} trials at once, {settings.trials_in_all:,} in all:")
    print("\n".join(search_lines(driver, settings)))
    print(first_limit(driver, settings))
    if settings.json:
        Path(settings.json).write_text(json.dumps(measured, indent=2) + "\n")


def say(where: str, trials: int, driver: Driver) -> None:
    """One line of a driver's costs."""
    print(
        f"{trials:,} trivial trials {where}: {driver.trial_s * 1e3:.2f} ms, "
        f"{driver.trial_bytes:,.0f} bytes of memory and {driver.trial_disk:,.0f} of "
        f"disk a trial; {1 / driver.trial_s:,.0f} a second",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
