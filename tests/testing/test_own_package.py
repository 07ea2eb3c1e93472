"""A package that offers a task by entry point inherits the suite of tasks."""

import os
import subprocess
import sys
from pathlib import Path

FILES = {
    "own_tasks-0.1.dist-info/METADATA": """Metadata-Version: 2.1
Name: own-tasks
Version: 0.1
""",
    "own_tasks-0.1.dist-info/entry_points.txt": """
[raymeta.tasks]
parabola = own_tasks:Parabola
halved = own_tasks:halved
""",
    "own_tasks.py": '''
from dataclasses import dataclass

import torch
from raymeta import Batch, Positive, Space, descent, optim


class Halved(torch.autograd.Function):
    """A value of which half the gradient is lost."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g / 2


@dataclass(frozen=True)
class Parabola:
    """Weights on a parabola whose bottom moves with the step."""

    name: str = "parabola"
    horizon: int = 10
    budget: float = 500.0
    halved: bool = False

    @property
    def space(self):
        l2 = Positive(0.01, low=1e-4, high=1.0)
        return Space(lr=Positive(0.1, low=1e-3, high=10.0), l2=l2)

    def sample(self, seed):
        start = torch.randn(3, generator=torch.Generator().manual_seed(seed))

        def loss(params, hparams, batch):
            l2 = Halved.apply(hparams["l2"]) if self.halved else hparams["l2"]
            w = params["w"]
            return (w - batch.data).square().sum() + l2 * w.square().sum()

        return descent(
            init_params=lambda hparams: {"w": start},
            inner_loss=loss,
            outer_loss=lambda params, hparams: params["w"].square().sum(),
            optimizer=lambda hparams: optim.sgd(hparams["lr"]),
            batch=lambda t: Batch(torch.tensor(t), 0.1 * torch.ones(3) * (t % 2)),
        )


def halved():
    return Parabola(name="halved", halved=True)
''',
    "test_own.py": """
import pytest
from raymeta import tasks
from raymeta.testing.tasks import TaskConformance


class TestOwnTasks(TaskConformance):
    @pytest.fixture(params=["parabola", "halved"])
    def task(self, request):
        return tasks.get(request.param)
""",
}


def test_one_subclass_proves_a_task_and_finds_a_wrong_derivative(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    path = os.pathsep.join(map(str, (tmp_path, Path(__file__).parents[2])))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rf", "--rootdir", tmp_path, "test_own.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, run.stdout
    assert "test_every_hypergradient_is_true[halved]" in failed[0]
    assert "largest_relative_error" in run.stdout  # rewritten asserts say what differs
    assert "17 passed, 2 skipped" in run.stdout.replace("1 failed, ", "")
