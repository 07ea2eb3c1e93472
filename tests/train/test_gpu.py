"""What needs a GPU; where there is none, it says so."""

import pytest
import torch
import train_toys
from ray import cloudpickle

from raymeta.data import Sinusoid, prefetch
from raymeta.runtime.ray_session import ray
from raymeta.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

cloudpickle.register_pickle_by_value(train_toys)


@pytest.mark.ray
def test_workers_on_gpus_learn_what_a_cpu_learns(here, tmp_path):
    """Gradients travel by NCCL; losses and flags by gloo."""
    count, lines = torch.cuda.device_count(), []
    ray.shutdown()
    ray.init("local", num_cpus=count, include_dashboard=False)
    try:
        far = train(
            train_toys.config(),
            workers=count,
            gpus=count,
            name="gpu",
            storage=tmp_path,
            progress=lines.append,
        )
    finally:
        ray.shutdown()
    assert any(line.endswith("cuda") for line in lines)
    assert far.evaluation["outer_loss"].tolist() == pytest.approx(
        here("cpu").evaluation["outer_loss"].tolist(), rel=1e-9
    )


def test_episodes_arrive_on_the_gpu_from_pinned_memory():
    options = {"count": 4, "seed": 0}
    (far,) = prefetch(Sinusoid(), [3], **options, device="cuda")
    (near,) = prefetch(Sinusoid(), [3], **options)
    assert far.support.inputs.is_cuda
    torch.testing.assert_close(far.support.inputs.cpu(), near.support.inputs)
