"""Losses: torch's own, those that people write, and what they write by mistake."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

CLASSES = 3
Targets = Callable[[int, Generator], Any]


class Loss(NamedTuple):
    """A loss of the outputs of a linear layer, and its targets.

    Attributes:
        make: the loss.
        targets: (how many, generator) -> targets.
        refused: a part of the message with which every estimator is refused.
        except_for: estimator -> a part of the message with which that one is refused.
        outputs: of the layer, per example.
    """

    make: Callable[[], Any]
    targets: Targets
    refused: str = ""
    except_for: Mapping[str, str] = {}
    outputs: int = CLASSES


def real(n: int, generator: Generator) -> Tensor:
    return torch.randn(n, CLASSES, generator=generator)


def positive(n: int, generator: Generator) -> Tensor:
    return torch.rand(n, CLASSES, generator=generator) + 0.5


def probabilities(n: int, generator: Generator) -> Tensor:
    return torch.randn(n, CLASSES, generator=generator).softmax(1)


def binary(n: int, generator: Generator) -> Tensor:
    return (torch.rand(n, CLASSES, generator=generator) < 0.5).double()


def signs(n: int, generator: Generator) -> Tensor:
    return 2 * binary(n, generator) - 1


def classes(n: int, generator: Generator) -> Tensor:
    return torch.randint(CLASSES, (n,), generator=generator)


def ignored(n: int, generator: Generator) -> Tensor:
    y = classes(n, generator)
    y[::2] = -100
    return y


def several(n: int, generator: Generator) -> Tensor:
    """Classes of each example, then -1."""
    y = torch.full((n, CLASSES), -1)
    y[:, 0] = classes(n, generator)
    return y


_WEIGHTS = torch.tensor([1.0, 2.0, 0.5])
_TORCHS = {
    "MSELoss": Loss(nn.MSELoss, real),
    "L1Loss": Loss(nn.L1Loss, real),
    "SmoothL1Loss": Loss(nn.SmoothL1Loss, real),
    "HuberLoss": Loss(lambda: nn.HuberLoss(delta=0.7), real),
    "CrossEntropyLoss": Loss(nn.CrossEntropyLoss, classes),
    "CrossEntropyLoss, weight": Loss(
        lambda: nn.CrossEntropyLoss(_WEIGHTS.to(torch.get_default_dtype())), classes
    ),
    "CrossEntropyLoss, ignore_index": Loss(nn.CrossEntropyLoss, ignored),
    "CrossEntropyLoss, label_smoothing": Loss(
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1), classes
    ),
    "CrossEntropyLoss of probabilities": Loss(nn.CrossEntropyLoss, probabilities),
    "NLLLoss": Loss(lambda: _of(nn.NLLLoss(), lambda z: z.log_softmax(1)), classes),
    "KLDivLoss": Loss(
        lambda: _of(nn.KLDivLoss(reduction="batchmean"), lambda z: z.log_softmax(1)),
        probabilities,
    ),
    "BCELoss": Loss(lambda: _of(nn.BCELoss(), torch.sigmoid), binary),
    "BCEWithLogitsLoss": Loss(nn.BCEWithLogitsLoss, binary),
    "BCEWithLogitsLoss, pos_weight": Loss(
        lambda: nn.BCEWithLogitsLoss(pos_weight=_WEIGHTS.to(torch.get_default_dtype())),
        binary,
    ),
    "PoissonNLLLoss": Loss(nn.PoissonNLLLoss, positive),
    "PoissonNLLLoss, full": Loss(lambda: nn.PoissonNLLLoss(full=True), positive),
    "GaussianNLLLoss": Loss(
        lambda: lambda z, y: nn.GaussianNLLLoss()(z[:, :1], y[:, :1], z[:, 1:2].exp()),
        real,
    ),
    "HingeEmbeddingLoss": Loss(nn.HingeEmbeddingLoss, signs),
    "SoftMarginLoss": Loss(nn.SoftMarginLoss, signs),
    "MultiMarginLoss": Loss(nn.MultiMarginLoss, classes),
    "MultiLabelMarginLoss": Loss(nn.MultiLabelMarginLoss, several),
    "MultiLabelSoftMarginLoss": Loss(nn.MultiLabelSoftMarginLoss, binary),
    "MarginRankingLoss": Loss(
        lambda: lambda z, y: nn.MarginRankingLoss(0.1)(z[:, 0], z[:, 1], y[:, 0]), signs
    ),
    "CosineEmbeddingLoss": Loss(
        lambda: lambda z, y: nn.CosineEmbeddingLoss()(z, z.roll(1, 1), y[:, 0]), signs
    ),
    "TripletMarginLoss": Loss(
        lambda: lambda z, y: nn.TripletMarginLoss()(z, z.roll(1, 0), y), real
    ),
    "TripletMarginWithDistanceLoss": Loss(
        lambda: (
            lambda z, y: nn.TripletMarginWithDistanceLoss(
                distance_function=lambda a, b: 1 - F.cosine_similarity(a, b)
            )(z, z.roll(1, 0), y)
        ),
        real,
    ),
    "CTCLoss": Loss(lambda: _ctc, classes, refused="needs operators with a"),
}


def _of(loss: nn.Module, transform: Callable[[Tensor], Tensor]) -> Any:
    return lambda z, y: loss(transform(z), y)


def _ctc(z: Tensor, y: Tensor) -> Tensor:
    """Each output is a sequence of two steps over two letters and the blank."""
    log_p = torch.stack([z, z.roll(1, 1)]).log_softmax(-1)
    n = len(z)
    lengths = torch.full((n,), 2), torch.ones(n, dtype=torch.int64)
    return F.ctc_loss(log_p, y.clamp(1)[:, None], *lengths)


def _focal(z: Tensor, y: Tensor) -> Tensor:
    """Lin et al. 2017, eq. 4."""
    log_p = z.log_softmax(1).gather(1, y[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def _dice(z: Tensor, y: Tensor) -> Tensor:
    p = z.sigmoid()
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def _contrastive(z: Tensor, y: Tensor) -> Tensor:
    """InfoNCE of the outputs with their targets."""
    scores = F.normalize(z, dim=1) @ F.normalize(y, dim=1).T / 0.5
    return F.cross_entropy(scores, torch.arange(len(z)))


def _supervised_contrastive(z: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(z, dim=1)
    scores = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -9.0)
    same = (y[:, None] == y).to(z.dtype)
    return -(scores.log_softmax(1) * same).sum() / same.sum()


def _correlation(z: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.corrcoef(torch.stack([z.flatten(), y.flatten()]))[0, 1]


def _pinball(z: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.8 * (y - z), -0.2 * (y - z)).mean()


def _wasserstein(z: Tensor, y: Tensor) -> Tensor:
    p = z.softmax(1)
    return (p.cumsum(1) - y.cumsum(1)).abs().sum(1).mean()


def _mixture(z: Tensor, y: Tensor) -> Tensor:
    normal = torch.distributions.Normal(z, 1.0)
    return -normal.log_prob(y[:, :1]).logsumexp(1).mean()


def _beta(z: Tensor, y: Tensor) -> Tensor:
    shapes = F.softplus(z) + 0.5
    beta = torch.distributions.Beta(shapes[:, 0], shapes[:, 1])
    return -beta.log_prob(0.5 * y[:, 0]).mean()


def _logs(z: Tensor, y: Tensor) -> Any:
    value = F.mse_loss(z, y)
    return value, {"mse": value}


class _Learned(nn.Module):
    """Kendall et al. 2018: the weight of each term is learned with the module."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        s = self.log_variance
        return ((-s).exp() * (z - y).square() + s).mean()


_OWN = {
    "focal": Loss(lambda: _focal, classes),
    "dice": Loss(lambda: _dice, binary),
    "InfoNCE": Loss(lambda: _contrastive, real),
    "supervised contrastive": Loss(lambda: _supervised_contrastive, classes),
    "root mean square": Loss(lambda: lambda z, y: F.mse_loss(z, y).sqrt(), real),
    "log-cosh": Loss(lambda: lambda z, y: (z - y).cosh().log().mean(), real),
    "correlation": Loss(lambda: _correlation, real),
    "pinball": Loss(lambda: _pinball, real),
    "squared hinge": Loss(
        lambda: lambda z, y: F.relu(1 - z * y).square().mean(), signs
    ),
    "earth mover's": Loss(lambda: _wasserstein, probabilities),
    "mixture of normals": Loss(lambda: _mixture, real),
    "beta likelihood": Loss(lambda: _beta, positive),
    "a sum over the batch": Loss(lambda: nn.MSELoss(reduction="sum"), real),
    "one-element outputs of shape (1,)": Loss(
        lambda: lambda z, y: F.mse_loss(z, y).reshape(1), real, refused="shape ()"
    ),
}

_MISTAKES = {
    "reduction='none'": Loss(
        lambda: nn.MSELoss(reduction="none"), real, refused="shape ()"
    ),
    "(loss, logs)": Loss(lambda: _logs, real, refused="shape ()"),
    "a number: .item()": Loss(
        lambda: lambda z, y: F.mse_loss(z, y).item(), real, refused=".item()"
    ),
    "a detached loss": Loss(
        lambda: lambda z, y: F.mse_loss(z, y).detach(), real, refused=".detach()"
    ),
    "a loss in no_grad": Loss(
        lambda: torch.no_grad()(F.mse_loss), real, refused="no_grad"
    ),
    "a count of errors": Loss(
        lambda: lambda z, y: (z.argmax(1) != y).sum(), classes, refused="int64"
    ),
    "a complex loss": Loss(
        lambda: lambda z, y: torch.complex(z - y, z).mean(), real, refused="complex128"
    ),
    "None": Loss(lambda: lambda z, y: None, real, refused="shape ()"),
    "targets of another shape": Loss(
        lambda: nn.CrossEntropyLoss(),
        lambda n, g: classes(n, g)[:1].repeat(n, 2),
        refused="(3, 2)",
    ),
    "targets that broadcast": Loss(
        nn.MSELoss, lambda n, g: torch.randn(n, generator=g), refused="broadcast"
    ),
    "float targets of a classifier": Loss(
        nn.CrossEntropyLoss,
        lambda n, g: torch.randn(n, generator=g),
        refused="float64",
    ),
    "a class": Loss(lambda: nn.MSELoss, real, refused="MSELoss()"),
    "a loss with weights of its own": Loss(_Learned, real, refused="log_variance"),
    "one argument": Loss(
        lambda: lambda z: z.mean(), real, refused="(outputs, targets)"
    ),
    "not a finite number": Loss(
        lambda: lambda z, y: (z - 1e9).log().mean(), real, refused="nan"
    ),
}

SECTIONS: dict[str, dict[str, Loss]] = {
    "torch.nn": _TORCHS,
    "Others": _OWN,
    "Mistakes": _MISTAKES,
}
LOSSES: dict[str, Loss] = {k: v for part in SECTIONS.values() for k, v in part.items()}
