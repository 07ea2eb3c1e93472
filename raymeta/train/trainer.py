"""Trainer of one seed's meta-training, on each rank."""

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymeta.data import Episode, prefetch
from raymeta.meta import MetaModule, MetaOutput
from raymeta.results.atomic import atomic_write
from raymeta.results.mirror import download
from raymeta.train.checkpoints import (
    BEST,
    Checkpoint,
    Checkpoints,
    last_step,
    load,
    step_file,
)
from raymeta.train.config import AUTOCAST, TrainConfig
from raymeta.train.evaluation import evaluate, interval
from raymeta.train.events import Event, Throughput
from raymeta.train.metrics_log import Rows
from raymeta.train.micro_tasks import joined, split_tasks
from raymeta.train.outer_optimizers import scale_lr
from raymeta.train.process_group import Gathering, ProcessGroup
from raymeta.train.reports import Reports


class Diverged(ValueError):
    """Too many outer steps in a row had no finite loss and gradient."""


class Training:
    r"""One seed's meta-training on one rank.

    At outer step t every rank adapts to its share of the step's tasks; the average of
    their gradients over ranks is that of the mean loss over all tasks,

    $$ g_t = \nabla_\theta \frac1N \sum_{i=1}^N E_i(\theta_t), $$

    however unequal the shares. An update without a finite loss and gradient is skipped.

    Args:
        config: the run's settings.
        seed: seeds θ's initial values and the tasks.
        ranks: this process among all.
        folder: the seed's own; a checkpoint in it is continued.
        rows: the log that the metrics go to.
        report: takes events; it is called on rank 0 only.
        reports: those of Ray Train.

    Attributes:
        step: updates of θ so far, skipped ones included.

    Raises:
        ValueError: the checkpoint is of another run, see `checkpoints.load`.
    """

    def __init__(
        self,
        config: TrainConfig,
        seed: int,
        ranks: ProcessGroup,
        folder: Path,
        rows: Rows,
        report: Callable[[Event], None],
        reports: Reports,
    ) -> None:
        self._config, self._seed, self._ranks = config, seed, ranks
        self._folder, self._rows, self._send = folder, rows, report
        self._reports = reports
        torch.manual_seed(seed)
        learner = config.learner(seed)
        self._module = MetaModule(
            learner, engine=config.engine, compile=config.compile
        ).to(ranks.device)
        self._checkpoints = Checkpoints(folder, config.keep)
        # In the learner's order, as checkpoints have always had what they keep of each.
        parameters = self._module.meta_parameters()
        self._optimizer = config.make_optimizer(parameters, config.outer_lr)
        schedule = config.make_scheduler
        self._scheduler = schedule(self._optimizer) if schedule else None
        self.step = 0
        self._skipped = self._in_a_row = 0
        self._best_val, self._wall_s = math.inf, 0.0
        self._metrics: dict[str, float] = {}
        self._continue()
        # Last: it takes over the parameters that it finds.
        self._parallel = ranks.parallel(self._module)
        self._live = Throughput(self.step)

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the end, then evaluate.

        Args:
            should_stop: is asked at every step; rank 0's answer counts.

        Returns:
            False if it was stopped before the end.

        Raises:
            Diverged: more than `max_skips` updates in a row were skipped.
        """
        config = self._config
        try:
            if self.step == 0:
                self._checkpoint(validate=True)
            for episodes in self._episodes():
                stop = self._outer_step(episodes, should_stop())
                if self.step % config.checkpoint_every == 0:
                    self._checkpoint(validate=True)
                elif self.step == config.outer_steps or stop:
                    self._checkpoint(validate=not stop)
                if stop and self.step < config.outer_steps:
                    return False
            self._test()
            return True
        finally:
            self._rows.flush()
            self._checkpoints.close()
            self._tell_written()

    def _episodes(self) -> Any:
        ranks, config = self._ranks, self._config
        return prefetch(
            config.family,
            range(self.step, config.outer_steps),
            count=config.tasks_per_step,
            seed=self._seed,
            rank=ranks.rank,
            world=ranks.world,
            device=ranks.device,
        )

    def _outer_step(self, episodes: Episode, stop: bool) -> bool:
        """θ_{t+1} from θ_t; returns whether all ranks are to stop."""
        begun = time.perf_counter()
        self._seed_randomness()
        self._optimizer.zero_grad()
        output, gathering = self._back_propagate(episodes, stop)
        norm = self._clipped_norm()  # of the mean over ranks: the same on all of them
        losses, (stopping, told, asked), (length,) = gathering.result(norm)
        skip = not (math.isfinite(length) and bool(losses.isfinite().all()))
        if skip:
            self._skip(losses)
        else:
            self._optimizer.step()
            if self._scheduler is not None:
                self._scheduler.step()
            self._in_a_row = 0
        took = time.perf_counter() - begun
        self._wall_s += took
        self._note(output, norm, skip, took)
        self.step += 1
        self._report_progress(losses)
        if asked and self._reports.is_preempted():
            self._checkpoint(validate=False)  # while there is time
            self._report(event="preempted")
        if told:
            self.publish()
        if self._in_a_row > self._config.max_skips:
            raise self._diverged()
        return stopping

    def _back_propagate(
        self, episodes: Episode, stop: bool
    ) -> tuple[MetaOutput, Gathering]:
        """The gradient of all tasks, of so many at once as there may be."""
        count, ranks = self._config.tasks_per_step, self._ranks
        parts = split_tasks(episodes, self._config.micro_tasks)
        outputs: list[MetaOutput] = []
        for part in parts:
            last = len(outputs) == len(parts) - 1
            # Ranks meet once, at the last of their parts.
            with nullcontext() if last else ranks.apart(self._parallel):
                with self._autocast():
                    outputs.append(self._parallel(part))
                if last:
                    output = joined(outputs)
                    reports = self._reports
                    flags = [stop, reports.are_due(), reports.asks()]
                    gathering = ranks.gathering(output.losses, count, flags)
                # The mean over ranks of these is the mean over all tasks.
                (outputs[-1].losses.sum() * ranks.world / count).backward()
        return output, gathering

    def _autocast(self) -> Any:
        name = self._config.autocast
        if name is None:
            return nullcontext()
        return torch.autocast(self._ranks.device.type, AUTOCAST[name])

    def _seed_randomness(self) -> None:
        """What inner steps draw depends on where we are, not on what was before."""
        text = f"{self._seed} {self.step} {self._ranks.rank} {self._ranks.world}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        on_cpu = self._ranks.device.type == "cpu"
        # A twentieth of a small step, where there is only the CPU's generator to seed.
        seed = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        seed(int.from_bytes(digest) >> 1)

    def _clipped_norm(self) -> Tensor:
        """Clip the meta-gradient; its norm before."""
        limit = self._config.clip_norm or math.inf
        return torch.nn.utils.clip_grad_norm_(self._module.parameters(), limit)

    def _skip(self, losses: Tensor) -> None:
        self._skipped += 1
        self._in_a_row += 1
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        what = f"the loss of {len(bad)} of {len(losses)} tasks" if bad else "a gradient"
        self._report(event="skip", reason=f"{what} is not finite")

    def _diverged(self) -> Diverged:
        first, last = self.step - self._in_a_row, self.step - 1
        return Diverged(
            f"seed {self._seed}: outer steps {first} to {last} had no finite loss and "
            f"gradient; at most {self._config.max_skips} in a row are skipped: lower "
            "the inner or the outer learning rate, or set clip_norm"
        )

    def _note(
        self, output: MetaOutput, norm: Tensor, skipped: bool, took: float
    ) -> None:
        """This rank's row of this step."""
        self._rows.add(
            self._row("train", self.step, self._module.learner.steps)
            | {"tasks": len(output.losses), "skipped": skipped, "step_s": took},
            {
                "outer_loss": output.loss,
                **{name: value.mean() for name, value in output.metrics.items()},
                "grad_norm": norm,
            },
        )
        if self._live.flush_is_due():
            self._rows.flush()

    def _row(self, split: str, step: int, inner_steps: int) -> dict[str, Any]:
        return {
            "algorithm": self._config.algorithm,
            "family": self._config.family.name,
            "seed": self._seed,
            "split": split,
            "outer_step": step,
            "workers": self._ranks.world,
            "inner_steps": inner_steps,
            "wall_s": self._wall_s,
            "skipped": False,
        }

    def _report_progress(self, losses: Tensor) -> None:
        self._tell_written()
        self._live.add(float(losses.mean()), len(losses))
        if self.step == self._config.outer_steps or self._live.is_due():
            live = self._live.take()
            self._metrics |= {"outer_loss": live["loss"]}
            self._metrics |= {"tasks_per_s": live["tasks_per_s"]}
            self._report(event="step", skipped=self._skipped, **live)

    def publish(self) -> None:
        """Tell Ray Train how this training stands; on all ranks at once."""
        newest = None
        if self._ranks.rank == 0:
            self._checkpoints.wait()
            last = last_step(self._folder)
            file = None if last is None else step_file(self._folder, last)
            newest = file and download(file)
        where = {"seed": self._seed, "outer_step": self.step}
        shared = {"workers": self._ranks.world, "skipped": self._skipped}
        self._reports.send(where | self._metrics | shared, newest)

    def _report(self, **event: Any) -> None:
        if self._ranks.rank == 0:
            self._send({"seed": self._seed, "step": self.step, **event})

    # Checkpoints.

    def _continue(self) -> None:
        """Go on from the last checkpoint, which rank 0 names."""
        mine = last_step(self._folder) if self._ranks.rank == 0 else 0
        step = int(self._ranks.total(torch.tensor(-1 if mine is None else mine)))
        if step < 0:
            return
        path = step_file(self._folder, step)
        checkpoint = self._load(path)
        self._optimizer.load_state_dict(checkpoint["optimizer"])
        if self._scheduler is not None and checkpoint.get("scheduler") is not None:
            self._scheduler.load_state_dict(checkpoint["scheduler"])
        own = self._config.outer_lr  # of a trial that took over another's checkpoint
        factor = own / checkpoint.get("outer_lr", own)
        scale_lr(self._optimizer, self._scheduler, factor)
        self.step = checkpoint["step"]
        self._skipped = checkpoint["skipped"]
        self._in_a_row = checkpoint["skipped_in_a_row"]
        self._best_val = checkpoint["best_val_loss"]
        self._wall_s = checkpoint["wall_s"]

    def _load(self, path: Path) -> Checkpoint:
        """Read a checkpoint and take over its θ."""
        theta = self._module.theta()
        checkpoint = load(path, self._config, theta)
        with torch.no_grad():
            for name, value in theta.items():
                value.copy_(checkpoint["theta"][name])
        return checkpoint

    def _checkpoint(self, *, validate: bool) -> None:
        # On every rank before rank 0 saves: what a checkpoint skips is on the disk.
        self._rows.flush()
        val_loss = self._validate() if validate else math.nan
        self._rows.flush()  # the row of the validation, too
        best = val_loss < self._best_val
        if best:
            self._best_val = val_loss
        if validate:
            told = {"val_loss": val_loss, "best_val_loss": self._best_val}
            self._metrics |= told
        if self._ranks.rank > 0:
            return
        self._checkpoints.wait()
        self._tell_written()
        self._checkpoints.save(
            {
                "algorithm": self._config.algorithm,
                "family": self._config.family.name,
                "seed": self._seed,
                "step": self.step,
                "theta": self._module.theta(),
                "optimizer": self._optimizer.state_dict(),
                "scheduler": self._scheduler and self._scheduler.state_dict(),
                "outer_lr": self._config.outer_lr,
                "val_loss": val_loss,
                "best_val_loss": self._best_val,
                "skipped": self._skipped,
                "skipped_in_a_row": self._in_a_row,
                "wall_s": self._wall_s,
            },
            best=best,
        )

    def _tell_written(self) -> None:
        """Report the last checkpoint once it is on the disk: who hears may take it."""
        if written := self._checkpoints.take_written():
            self._report(event="checkpoint", **written)

    # Held-out tasks.

    def _validate(self) -> float:
        steps, step = self._module.learner.steps, self.step
        return self._evaluate("val", self._config.val_tasks, steps, step)

    def _test(self) -> None:
        """Evaluate the best θ, or the last one where none was finite."""
        self._checkpoints.wait()
        self._ranks.total(torch.zeros(1))  # until rank 0 has written it
        step, best = self.step, download(self._folder / BEST)
        if best.exists():
            step = self._load(best)["step"]
        steps = self._config.test_steps
        last = self._module.learner.steps if steps is None else steps
        for inner_steps in range(last + 1):
            loss = self._evaluate("test", self._config.test_tasks, inner_steps, step)
            self._metrics["test_loss"] = loss
        if self._ranks.rank == 0 and self._config.pictures is not None:
            self._module.eval()
            arrays: Any = self._config.pictures(
                self._module, self._config.family, self._seed
            )
            with atomic_write(self._folder / "pictures.npz") as file:
                np.savez(file, **arrays)

    def _evaluate(self, split: Any, count: int, inner_steps: int, step: int) -> float:
        """The mean outer loss of θ after `step` updates; a row on rank 0."""
        config = self._config
        self._seed_randomness()
        # As in training: a compiled step is one for a number of tasks.
        at_once = math.ceil(config.tasks_per_step / self._ranks.world)
        with self._autocast():
            values = evaluate(
                self._module,
                config.family,
                self._ranks,
                split=split,
                count=count,
                at_once=min(at_once, config.micro_tasks or at_once),
                seed=self._seed,
                steps=inner_steps,
            )
        means = {name: float(value.mean()) for name, value in values.items()}
        losses = values.pop("outer_loss")
        if self._ranks.rank == 0:
            self._rows.add(
                self._row(split, step, inner_steps)
                | means
                | {"tasks": count, "ci95": interval(losses)}
                # Where a task diverges, the mean says nothing of the others.
                | {"median": float(losses.median())}
                | {f"{name}_ci95": interval(each) for name, each in values.items()}
            )
        return means["outer_loss"]
