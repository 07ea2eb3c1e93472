"""The trials of a study as Tune's schedulers see them.

A scheduler of Tune decides about trials of one experiment, asks its controller about
the others, and stops, pauses and changes them through it. The studies of a comparison
share one experiment, so a study's scheduler is given a `ControllerAdapter` for its
controller and `TrialAdapter`s of ours: with the methods and attributes that the
schedulers of Tune 2.60 use.

A trial that is paused occupies nothing: its training state lies in storage, as what a
*segment* of training at constant hyperparameters left there, and the next segment, of
the same trial or of one that copies it, starts from there on any worker.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raymeta.search.spec import Segment

PENDING, RUNNING, PAUSED = TuneTrial.PENDING, TuneTrial.RUNNING, TuneTrial.PAUSED
TERMINATED = TuneTrial.TERMINATED


class CheckpointAdapter(NamedTuple):
    """The state of a training, in the place of one of Tune's checkpoints.

    Attributes:
        number: number of the trial whose last segment led there.
        segments: the whole way there, other trials' part of it included.
    """

    number: int
    segments: tuple[Segment, ...]

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return sum(segment.steps for segment in self.segments)


class TrialAdapter:
    """A trial as schedulers read and change it.

    Attributes:
        number: within the study.
        config: natural values by flat name.
        result: what it reported last.
        steps_seen: training steps at which the scheduler saw it last.
    """

    def __init__(self, number: int, config: dict[str, Any]) -> None:
        self.number, self.trial_id = number, str(number)
        self.config = config
        self.status = PENDING
        self.result: dict[str, Any] = {}
        self.steps_seen = 0
        self.experiment_tag = self.trial_id
        self.evaluated_params = dict(config)
        self.is_saving = False
        self.temporary_state = SimpleNamespace(saving_to=None)
        self.run_metadata = SimpleNamespace(
            checkpoint_manager=SimpleNamespace(
                checkpoint_config=SimpleNamespace(num_to_keep=None),
                _latest_checkpoint_result=SimpleNamespace(
                    checkpoint=CheckpointAdapter(number, ()), metrics={}
                ),
            )
        )

    def __str__(self) -> str:
        return self.trial_id

    @property
    def checkpoint(self) -> CheckpointAdapter:
        """Where its next segment starts; PBT exchanges what this reads."""
        manager = self.run_metadata.checkpoint_manager
        return manager._latest_checkpoint_result.checkpoint

    def save(self, saved: CheckpointAdapter) -> None:
        """It has come this far."""
        manager = self.run_metadata.checkpoint_manager
        manager._latest_checkpoint_result = SimpleNamespace(
            checkpoint=saved, metrics=self.result
        )

    def set_config(self, config: dict[str, Any]) -> None:
        """It goes on at other hyperparameters."""
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        """Tune's name of it for people."""
        self.experiment_tag = tag

    def is_finished(self) -> bool:
        """Whether it will not run again."""
        return self.status == TERMINATED


class ControllerAdapter:
    """Trials under one scheduler, for which this is Tune's controller.

    Attributes:
        trials: those that are not over, in their order.
        search_alg: wrapper of the searcher, as Tune's controller has it.
    """

    def __init__(self, searcher: Searcher, scheduler: TrialScheduler) -> None:
        self.search_alg = SimpleNamespace(searcher=searcher)
        self.trials: dict[int, TrialAdapter] = {}
        self.numbers: list[int] = []
        self._searcher = searcher
        self._scheduler: Any = scheduler  # it is shown our trials for Tune's

    def add(self, trial: TrialAdapter) -> None:
        """A new trial, which waits to be chosen."""
        self.trials[trial.number] = trial
        self.numbers.append(trial.number)
        self._scheduler.on_trial_add(self, trial)

    def pending(self) -> bool:
        """Whether a trial waits that has never run."""
        return any(trial.status == PENDING for trial in self.trials.values())

    def next_trial(self) -> TrialAdapter | None:
        """The trial that the scheduler wants to run next."""
        return self._scheduler.choose_trial_to_run(self)

    def resume_waiting(self) -> None:
        """Make the scheduler judge trials that wait for one that will not report.

        Tune's schedulers judge a group when its last member reports. When that one
        failed instead, a waiting member's last result is shown again. A member that
        even then may not go on is over.
        """
        waiting = next(t for t in self.trials.values() if t.status == PAUSED)
        self._scheduler.on_trial_result(self, waiting, waiting.result)
        if waiting.status == PAUSED and self.next_trial() is None:
            self.stop_trial(waiting)

    def on_result(
        self, trial: TrialAdapter, result: dict[str, Any], complete: bool
    ) -> str:
        """Show a result to scheduler and searcher; return the scheduler's decision.

        Args:
            trial: it is running.
            result: what it reports.
            complete: whether that is a full run's.

        Returns:
            CONTINUE, PAUSE or STOP.
        """
        trial.result = result
        decision = self._scheduler.on_trial_result(self, trial, result)
        if complete or decision == TrialScheduler.STOP:
            self._scheduler.on_trial_complete(self, trial, result)
            self._end(trial)
            self._searcher.on_trial_complete(trial.trial_id, result)
            return TrialScheduler.STOP
        self._searcher.on_trial_result(trial.trial_id, result)
        if decision == TrialScheduler.PAUSE or trial.status == PAUSED:
            trial.status = PAUSED
            return TrialScheduler.PAUSE
        return decision

    def fail(self, trial: TrialAdapter) -> None:
        """A trial has no result."""
        self._scheduler.on_trial_remove(self, trial)
        self._end(trial)
        self._searcher.on_trial_complete(trial.trial_id, None, error=True)

    def stop_trial(self, trial: TrialAdapter) -> None:
        """End a trial that waits."""
        self._scheduler.on_trial_remove(self, trial)
        self._end(trial)
        self._searcher.on_trial_complete(trial.trial_id, trial.result or None)

    def get_trials(self) -> list[TrialAdapter]:
        """As Tune's controller; those that are over are left out."""
        return list(self.trials.values())

    def get_live_trials(self) -> list[TrialAdapter]:
        """As Tune's controller."""
        return list(self.trials.values())

    def pause_trial(self, trial: TrialAdapter, should_checkpoint: bool = True) -> None:
        """Pause a trial that has just reported; its state is saved already."""
        trial.status = PAUSED

    def _schedule_trial_save(
        self, trial: TrialAdapter, result: dict[str, Any]
    ) -> CheckpointAdapter:
        """Tune's private way to save a running trial, which PBT takes."""
        return trial.checkpoint

    def _end(self, trial: TrialAdapter) -> None:
        trial.status = TERMINATED
        self.trials.pop(trial.number, None)
