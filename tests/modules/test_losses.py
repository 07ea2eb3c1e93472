"""Cross entropy with learned settings, against torch's."""

import pytest
import torch
from torch.nn import functional as F

from raymeta.modules import smoothed_cross_entropy

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_is_torchs_cross_entropy(shape, smoothing):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 5, *shape, generator=generator)
    targets = torch.randint(5, (6, *shape), generator=generator)
    truth = F.cross_entropy(outputs, targets, label_smoothing=smoothing)
    ours = smoothed_cross_entropy(outputs, targets, torch.tensor(smoothing))
    torch.testing.assert_close(ours, truth)
    each = F.cross_entropy(
        outputs, targets, label_smoothing=smoothing, reduction="none"
    )
    weights = torch.rand(6, generator=generator)
    truth = (weights * each.reshape(6, -1).mean(1)).mean()
    ours = smoothed_cross_entropy(outputs, targets, smoothing, weights)
    torch.testing.assert_close(ours, truth)


def test_is_linear_in_the_smoothing():
    outputs, targets = torch.randn(6, 5), torch.arange(6) % 5
    smoothing = torch.tensor(0.2, requires_grad=True)
    loss = smoothed_cross_entropy(outputs, targets, smoothing)
    (slope,) = torch.autograd.grad(loss, smoothing)
    ends = [F.cross_entropy(outputs, targets, label_smoothing=e) for e in (0.0, 1.0)]
    torch.testing.assert_close(slope, ends[1] - ends[0])
