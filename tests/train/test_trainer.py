"""The training loop in one process, against plain loops and closed forms."""

import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from train_toys import SHRINK, Points, config, learner

from raymeta.data import Episode
from raymeta.train import recipe, reports, train
from raymeta.train.checkpoints import Checkpoints, last_step
from raymeta.train.evaluation import interval
from raymeta.train.events import ProgressText
from raymeta.train.process_group import ProcessGroup
from raymeta.train.worker import work

NOISE = ["attempt", "step_s", "wall_s"]


def adapted(w, c, inner_steps=2):
    """w after inner steps of learning rate .3 towards c, in closed form."""
    return c + 0.7**inner_steps * (w - c)


def plain_loop(steps, seed=0, skip=(), clip=None, tasks=5, lr=0.1):
    """(θ after the steps, loss and gradient norm of each), with nothing of raymeta."""
    torch.manual_seed(seed)
    w = learner(seed).meta["layer.w"].requires_grad_()
    optimizer = torch.optim.Adam([w], lr=lr)
    history = []
    for step in range(steps):
        c, q = Points().episodes(step, tasks, 0, tasks, seed=seed, split="train")
        loss = (adapted(w, c) - q).square().sum(1).mean()
        (w.grad,) = torch.autograd.grad(loss, [w])
        history.append((float(loss.detach()), float(w.grad.norm())))
        if step in skip:
            continue
        if clip is not None:
            w.grad *= min(1.0, clip / float(w.grad.norm()))
        optimizer.step()
    return w.detach(), history


def last_theta(folder):
    path = folder / f"step-{last_step(folder):08}.pt"
    return torch.load(path, weights_only=True)["theta"]["layer.w"]


def same(frame, other):
    pd.testing.assert_frame_equal(
        frame.drop(columns=NOISE), other.drop(columns=NOISE), rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("clip", [None, 2.0])
def test_every_step_is_that_of_a_plain_loop(here, tmp_path, clip):
    result = here(clip_norm=clip, seeds=(0, 5))

    for seed in (0, 5):
        w, history = plain_loop(12, seed, clip=clip)
        torch.testing.assert_close(last_theta(tmp_path / "x" / f"seed-{seed}"), w)
        rows = result.frame.query("seed == @seed and split == 'train'")
        assert rows["outer_step"].tolist() == list(range(12))
        assert rows["outer_loss"].tolist() == pytest.approx([x for x, _ in history])
        assert rows["grad_norm"].tolist() == pytest.approx([x for _, x in history])
        for column, value in {"tasks": 5, "inner_steps": 2, "workers": 1}.items():
            assert set(rows[column]) == {value}
        assert not rows["skipped"].any()
        assert rows["wall_s"].iloc[-1] == pytest.approx(rows["step_s"].sum())


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_gradients_of_micro_tasks_sum_to_that_of_all(here, most):
    whole, parts = here("whole"), here("parts", micro_tasks=most)
    pd.testing.assert_frame_equal(
        parts.frame.drop(columns=NOISE),
        whole.frame.drop(columns=NOISE),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.usefixtures("float64")
def test_a_named_optimizer_and_schedule_are_those_of_a_plain_loop(here, tmp_path):
    named = {
        "optimizer": "SGD(momentum=0.9)",
        "scheduler": "CosineAnnealingLR(eta_min=0.01)",
    }
    result = here(**named)

    w = learner(0).meta["layer.w"].requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12, eta_min=0.01)
    for step in range(12):
        c, q = Points().episodes(step, 5, 0, 5, seed=0, split="train")
        (w.grad,) = torch.autograd.grad((adapted(w, c) - q).square().sum(1).mean(), [w])
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(last_theta(tmp_path / "x" / "seed-0"), w.detach())

    with pytest.raises(OSError, match="the disk is gone"):
        here("cut", family=Broken(), **named)
    same(here("cut", **named).frame, result.frame)  # the schedule goes on, too
    with pytest.raises(ValueError, match=r"SGD\(momentum=0.9\) then, none now"):
        here("x")


@pytest.mark.usefixtures("float64")
def test_the_evaluation_is_that_of_the_best_theta_on_held_out_tasks(here):
    result = here(test_steps=4)

    w = result.theta[0]["layer.w"]
    c, q = Points().episodes(0, 11, 0, 11, seed=0, split="test")
    rows = result.evaluation
    assert rows["inner_steps"].tolist() == [0, 1, 2, 3, 4]
    for row in rows.itertuples():
        losses = (adapted(w, c, row.inner_steps) - q).square().sum(1)
        assert row.outer_loss == pytest.approx(float(losses.mean()))
        deviations = losses - losses.mean()
        variance = float(deviations.square().sum()) / 10
        assert row.ci95 == pytest.approx(1.96 * math.sqrt(variance / 11))
        assert row.median == pytest.approx(float(losses.median()))
        far = (adapted(w, c, row.inner_steps) - q).abs().amax(1)
        assert row.far == pytest.approx(float(far.mean()))
        width = 1.96 * float(far.std()) / math.sqrt(11)
        assert row.far_ci95 == pytest.approx(width)
        assert row.tasks == 11
    val = result.frame[result.frame["split"] == "val"]
    assert val["outer_step"].tolist() == [0, 4, 8, 12]
    c, q = Points().episodes(0, 7, 0, 7, seed=0, split="val")
    mine = float((adapted(w, c) - q).square().sum(1).mean())
    assert val["outer_loss"].iloc[-1] == pytest.approx(mine)


def test_the_best_checkpoint_is_kept_beside_the_last_ones(here, tmp_path):
    # So long steps that the validation loss falls and rises.
    result = here(outer_lr=4.0, outer_steps=24)

    val = result.frame[result.frame["split"] == "val"].set_index("outer_step")
    best = val["outer_loss"].idxmin()
    assert 0 < best < 24
    assert set(result.evaluation["outer_step"]) == {best}
    names = sorted(path.name for path in (tmp_path / "x" / "seed-0").iterdir())
    assert names == ["best.pt", "step-00000020.pt", "step-00000024.pt"]
    kept = torch.load(tmp_path / "x" / "seed-0" / "best.pt", weights_only=True)
    assert kept["step"] == best
    assert kept["val_loss"] == val["outer_loss"][best]
    assert torch.equal(kept["theta"]["layer.w"], result.theta[0]["layer.w"])


@dataclass(frozen=True)
class Interrupting(Points):
    """Ctrl-C while the tasks of a step are prepared."""

    at: int = 6

    def episodes(self, step, count, start, stop, *, seed, split):
        if (step, split) == (self.at, "train"):
            os.kill(os.getpid(), signal.SIGINT)
        return super().episodes(step, count, start, stop, seed=seed, split=split)


def test_ctrl_c_leaves_a_frame_and_a_checkpoint_that_are_continued(here, tmp_path):
    whole = here("whole", seeds=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        here("cut", seeds=(0, 1), family=Interrupting())

    folder, lines = tmp_path / "cut", []
    reached = last_step(folder / "seed-0")
    assert 4 <= reached <= 7  # steps are prepared up to two ahead
    left = pd.read_parquet(folder / "frame.parquet")
    assert left.query("split == 'train'")["outer_step"].tolist() == list(range(reached))

    resumed = here("cut", seeds=(0, 1), progress=lines.append)
    assert f"seed 0 goes on from outer step {reached} on 1 process, cpu" in lines
    assert "seed 1 begins on 1 process, cpu" in lines
    (said,) = [line for line in lines if "goes on with other code" in line]
    assert "test_trainer.Interrupting" in said
    same(resumed.frame, whole.frame)
    for name in ("whole", "cut"):
        assert torch.equal(
            last_theta(tmp_path / name / "seed-0"), last_theta(folder / "seed-0")
        )
    assert sorted(resumed.frame["attempt"].unique()) == [1, 2]


@dataclass(frozen=True)
class Broken(Points):
    def episodes(self, step, count, start, stop, *, seed, split):
        if (step, split) == (10, "train"):
            raise OSError("the disk is gone")
        return super().episodes(step, count, start, stop, seed=seed, split=split)


def test_what_an_error_leaves_is_continued_from_the_checkpoint(here, tmp_path):
    whole = here("whole")
    with pytest.raises(OSError, match="the disk is gone"):
        here("cut", family=Broken())
    assert last_step(tmp_path / "cut" / "seed-0") == 8
    left = pd.read_parquet(tmp_path / "cut" / "frame.parquet")
    assert left.query("split == 'train'")["outer_step"].tolist() == list(range(10))

    resumed = here("cut")
    same(resumed.frame, whole.frame)
    attempts = resumed.frame.query("split == 'train'")["attempt"].tolist()
    assert attempts == [1] * 8 + [2] * 4  # what was done twice counts once


@pytest.mark.usefixtures("float64")
def test_updates_without_a_finite_loss_are_skipped_and_named(here, tmp_path):
    lines = []
    result = here(family=Points(poison=(3, 4, 7)), progress=lines.append)

    w, _ = plain_loop(12, skip=(3, 4, 7))
    torch.testing.assert_close(last_theta(tmp_path / "x" / "seed-0"), w)
    train_rows = result.frame.query("split == 'train'")
    assert train_rows.query("skipped")["outer_step"].tolist() == [3, 4, 7]
    skips = [line for line in lines if "skipped" in line and "outer step" in line]
    assert skips[0] == (
        "seed 0, outer step 3: the loss of 1 of 5 tasks is not finite; the update is "
        "skipped"
    )
    assert len(skips) == 3


def test_too_many_skipped_updates_in_a_row_end_the_run(here, tmp_path):
    match = "seed 0: outer steps 3 to 5 had no finite loss and gradient; at most 2 in"
    with pytest.raises(ValueError, match=match):
        here(family=Points(poison=(3, 4, 5)))
    left = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    assert left.query("skipped")["outer_step"].tolist() == [3, 4, 5]

    # The count goes on where a checkpoint lies between.
    for _ in range(2):
        with pytest.raises(ValueError, match="outer steps 3 to 5"):
            here("y", family=Points(poison=(3, 4, 5)), checkpoint_every=5)


def test_a_finished_run_is_not_run_again_and_a_longer_one_goes_on(here, monkeypatch):
    whole = here("whole", outer_steps=12)
    short = here("x", outer_steps=8)
    assert len(short.frame.query("split == 'train'")) == 8

    longer = here("x", outer_steps=12)
    same(longer.frame, whole.frame)
    with pytest.raises(ValueError, match="has done 12 outer steps, but the run has"):
        here("x", outer_steps=8)

    monkeypatch.setattr("raymeta.train.run.work", lambda *a: pytest.fail("ran again"))
    with pytest.raises(BaseException, match="ran again"):
        here("x", outer_steps=16)


def test_a_finished_run_says_so(here, monkeypatch):
    first = here()
    monkeypatch.setattr("raymeta.train.run.work", lambda *a: pytest.fail("ran again"))
    lines = []
    again = here(progress=lines.append)
    assert "it had finished before" in lines
    pd.testing.assert_frame_equal(again.frame, first.frame)
    assert torch.equal(again.theta[0]["layer.w"], first.theta[0]["layer.w"])


def test_a_run_leaves_torch_as_it_was(here):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    here(outer_steps=2)
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_default_dtype() == torch.float32


def test_who_trains_in_one_process_imports_no_ray():
    code = "import sys, raymeta.train; print('ray' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


def wide(seed):
    return replace(learner(seed), meta={"layer.w": torch.zeros(4)})


def idle(seed):
    narrow = learner(seed)
    return replace(narrow, meta={**narrow.meta, "idle": torch.zeros(2)})


def test_a_checkpoint_of_another_algorithm_or_shape_is_refused(here, tmp_path):
    here("x", outer_steps=4)
    with pytest.raises(ValueError, match=r"algorithm \(descent then, maml now\)"):
        here("x", outer_steps=4, algorithm="maml")
    with pytest.raises(ValueError, match=r"tasks_per_step \(5 then, 6 now\)"):
        here("x", outer_steps=4, tasks_per_step=6)

    class Wide(Points):
        def episodes(self, step, count, start, stop, **which):
            narrow = super().episodes(step, count, start, stop, **which)
            return type(narrow)(*(torch.nn.functional.pad(x, (0, 1)) for x in narrow))

    match = r"'layer.w' is float64 \(3,\) in it and float64 \(4,\) in this run"
    with pytest.raises(ValueError, match=match):
        here("x", outer_steps=8, learner=wide, family=Wide())

    here("y", outer_steps=4, algorithm="maml")
    (tmp_path / "x" / "seed-0" / "step-00000004.pt").replace(
        tmp_path / "y" / "seed-0" / "step-00000004.pt"
    )
    with pytest.raises(ValueError, match="a checkpoint of algorithm 'descent', but"):
        here("y", outer_steps=8, algorithm="maml")


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_the_last_good_checkpoint_goes_on_aloud(here, tmp_path, cut):
    whole = here("whole", outer_steps=16)
    here("x")
    damaged = tmp_path / "x" / "seed-0" / "step-00000012.pt"
    content = damaged.read_bytes()[:cut]
    damaged.write_bytes(content)
    lines = []
    same(here("x", outer_steps=16, progress=lines.append).frame, whole.frame)
    said = "is not used, for it is .*: it goes on from step-00000008.pt, and keeps"
    assert [line for line in lines if re.search(rf"00012.pt {said}", line)]
    assert "seed 0 goes on from outer step 8 on 1 process, cpu" in lines
    assert damaged.with_name("step-00000012.pt.damaged").read_bytes() == content


def test_where_none_is_good_the_file_is_named(here, tmp_path):
    here("x", keep=1)
    for name, remedy in (
        ("step-00000012.pt", "delete it, and"),
        ("best.pt", "restore"),
    ):
        file = tmp_path / "x" / "seed-0" / name
        content = file.read_bytes()
        file.write_bytes(content[:-100])
        with pytest.raises(ValueError, match=f"{name} cannot be used.*: {remedy}"):
            here("x", outer_steps=16, keep=1)
        file.write_bytes(content)


def test_an_optimizer_that_cannot_be_made_is_refused_before(here):
    with pytest.raises(ValueError, match=r"must be made of .* Invalid weight_decay"):
        here(optimizer="AdamW(weight_decay=-1)")
    with pytest.raises(ValueError, match=r"must be made of .* 'step_size'"):
        here(scheduler="StepLR")


def test_autocast_takes_matrix_products_to_bfloat16(tmp_path):
    def losses(**changes):
        sizes = {"outer_steps": 2, "tasks_per_step": 3, "val_tasks": 1, "test_tasks": 1}
        settings = recipe("maml", "sinusoid", test_steps=0, **sizes, **changes)
        result = train(settings, name="-".join(["x", *changes]), progress=False,
                       storage=tmp_path)  # fmt: skip
        return result.frame.query("split == 'train'")["outer_loss"].tolist()

    exact, rounded = losses(), losses(autocast="bfloat16")
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=1e-2)


def test_what_workers_would_stumble_on_is_refused_before(here, tmp_path):
    with pytest.raises(
        ValueError, match="depend on every meta-parameter, but does not on idle"
    ):
        here(learner=idle)
    assert not (tmp_path / "x").exists()


class Unseeded(Points):
    def episodes(self, step, count, start, stop, *, seed, split):
        return Episode(*torch.randn(2, stop - start, 3))


class NoTask(Points):
    def episodes(self, step, count, start, stop, *, seed, split):
        return 3


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Unseeded(), "functions of .* alone, but asked again for the first one it giv"),
        (NoTask(), "tasks must be an Episode, but got a int: give raymeta.data.Episo"),
    ],
)
def test_tasks_that_workers_could_not_share_are_refused_before(here, family, message):
    with pytest.raises(ValueError, match=message):
        here(family=family)


class Unasked(Points):
    def episodes(self, step, count, start, stop):
        return None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": Unasked()}, r"of Unasked is episodes\(step, .*unexpected keyword"),
        ({"outer_steps": 0}, "needs outer_steps >= 1, but got 0"),
        ({"outer_lr": math.nan}, "needs outer_lr > 0, but got nan"),
        ({"clip_norm": 0.0}, "needs clip_norm > 0, but got 0.0"),
        ({"optimizer": "Adamm"}, "unknown outer optimizer 'Adamm': did you mean 'Adam"),
        ({"optimizer": "Adam(beta=1)"}, "unknown option of Adam 'beta'"),
        ({"optimizer": "Adam(lr=1.0)"}, "learning rate is outer_lr, but got"),
        ({"optimizer": "Adam(0.1)"}, r"given as Name or Name\(option=number\), as"),
        ({"scheduler": "LambdaLR"}, "unknown scheduler 'LambdaLR'"),
        ({"micro_tasks": 0}, "needs micro_tasks >= 1, but got 0"),
        ({"autocast": "float16"}, "unknown autocast 'float16'"),
        ({"autocast": "bfloat16"}, "takes float32 to bfloat16, but got dtype=float64"),
        ({"max_skips": -1}, "needs max_skips >= 0, but got -1"),
        ({"seeds": ()}, r"needs seeds, each once, but got \[\]"),
        ({"seeds": (1, 1)}, r"needs seeds, each once, but got \[1, 1\]"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"engine": "lower"}, "unknown engine 'lower'"),
        ({"engine": "higher", "compile": True}, "eager steps, but got compile=True"),
        ({"family": Points}, r"got the class Points: pass Points\(\)"),
        ({"learner": None}, r"learner must be a function of \(seed\), but got a None"),
        ({"learner": learner(0)}, r"function of \(seed\), but got a Learner: give"),
        ({"learner": lambda: learner(0)}, r"learner is called with \(seed\), but"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"workers": 0}, "needs workers >= 1, but got workers=0"),
        ({"workers": 2, "gpus": 1}, "got gpus=1 for workers=2"),
        ({"workers": 6}, "got workers=6 for tasks_per_step=5, val_tasks=7"),
        ({"workers": 1, "wait": -1.0}, "needs wait >= 0"),
        ({"name": "a/b"}, "a name must consist of"),
    ],
)
def test_impossible_places(where, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config(), storage=tmp_path, progress=False, **where)


def test_one_task_judged_several_times_has_no_interval():
    assert math.isnan(interval(torch.full((4,), 0.3)))
    assert math.isnan(interval(torch.tensor([0.3])))
    assert interval(torch.tensor([1.0, 3.0])) == pytest.approx(1.96)


def test_the_shrink_factor_of_the_toy():
    w, c = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(adapted(w, c), SHRINK * w + (1 - SHRINK) * c)


def test_what_a_killed_attempt_was_writing_is_removed(tmp_path):
    (tmp_path / "step-00000001.pt.12ab.tmp").touch()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save({"step": 1, "val_loss": 2.0}, best=False)
    checkpoints.wait()
    # Told once, when it is on the disk.
    assert checkpoints.take_written() == {"step": 1, "val_loss": 2.0, "best": False}
    assert checkpoints.take_written() == {}
    checkpoints.close()
    assert os.listdir(tmp_path) == ["step-00000001.pt"]


def test_a_node_that_is_about_to_go_gets_a_checkpoint_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "ASK_EVERY_S", 0.0)
    answers, events = iter([False, True]), []
    work(
        config(outer_steps=10, checkpoint_every=100),
        tmp_path,
        ProcessGroup(),
        events.append,
        lambda: False,
        preempted=lambda: next(answers),  # nobody asks a third time
    )
    written = [e["step"] for e in events if e["event"] == "checkpoint"]
    assert written == [0, 2, 10]
    (told,) = (e for e in events if e["event"] == "preempted")
    said = "seed 0, outer step 2: a node is about to go; a checkpoint is written"
    assert ProgressText(10).record(told) == [said]
