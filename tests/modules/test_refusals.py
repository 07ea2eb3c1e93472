"""What `module_problem` refuses before step 1."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, TensorDataset

from tests.support.module_cases import TRAIN, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


class Alone(Dataset):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(5)


class Recomputing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Averaging(nn.Module):
    """A bag without a layer."""

    def __init__(self, **others) -> None:
        super().__init__()
        self.weight, self.others = nn.Parameter(torch.randn(9, 3)), others

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding_bag(x.long().clamp(0, 8), self.weight, **self.others)


def all_frozen() -> nn.Module:
    return mlp().requires_grad_(False)


EMPTY = TensorDataset(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
REFUSED = {
    "nothing to train": (
        lambda: problem_of(all_frozen()),
        "module_problem needs a module with parameters that require grad, but got "
        "Sequential: unfreeze some",
    ),
    "no parameters": (
        lambda: problem_of(nn.Tanh()),
        "with parameters that require grad, but got Tanh",
    ),
    "empty training data": (
        lambda: problem_of(mlp(), train=EMPTY),
        "module_problem needs a non-empty data set, but train is",
    ),
    "empty validation data": (
        lambda: problem_of(mlp(), val=EMPTY),
        "module_problem needs a non-empty data set, but val is",
    ),
    "a batch larger than the data": (
        lambda: problem_of(mlp(), batch_size=TRAIN + 1),
        r"1 <= batch_size <= len\(train\), but got batch_size=23, len\(train\)=22",
    ),
    "no batch": (
        lambda: problem_of(mlp(), batch_size=0),
        r"needs 1 <= batch_size <= len\(train\), but got batch_size=0",
    ),
    "examples without a target": (
        lambda: problem_of(mlp(), train=Alone()),
        r"examples that are tuples \(inputs…, target\) or dictionaries, but got tensor",
    ),
    "one tensor": (
        lambda: problem_of(mlp(), train=TensorDataset(torch.zeros(9, 5))),
        r"examples that are tuples \(inputs…, target\) or dictionaries, but got \(",
    ),
    "recomputed activations": (
        lambda: problem_of(Recomputing(5, 3)),
        "cannot run torch.utils.checkpoint, .* use the estimator Checkpointed",
    ),
    "an embedding that writes into its weights": (
        lambda: problem_of(mlp(nn.Identity(), nn.Embedding(4, 2, max_norm=1.0))),
        "cannot differentiate Embedding with max_norm=1.0, which writes into its weig",
    ),
    "a bag that does": (
        lambda: problem_of(Averaging(max_norm=1.0)),
        "embedding_bag with max_norm or .*, but got max_norm=1.0, .*: leave them out",
    ),
    "a bag with another gradient": (
        lambda: problem_of(Averaging(scale_grad_by_freq=True)),
        "but got max_norm=None, scale_grad_by_freq=True: leave them out",
    ),
    "metrics of nothing": (
        lambda: problem_of(mlp(), metrics={"error": F.cross_entropy}),
        r"module_problem needs test data for metrics \['error'\]: give test=",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
