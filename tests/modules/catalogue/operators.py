"""Operators in a forward pass that torch differentiates in part, or with care."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.modules.catalogue.own import after


def _square(z: Tensor) -> Tensor:
    """Positive definite matrices of the outputs, shape (batch, 3, 3)."""
    return z[:, :, None] * z[:, None, :] + torch.eye(3)


def _sampled(own: Any, z: Tensor) -> Tensor:
    images = torch.linspace(-1, 1, 9).view(1, 1, 3, 3).expand(len(z), 1, 3, 3)
    grid = z.tanh()[:, None, None, :2] * 0.5
    return F.grid_sample(images, grid, align_corners=False)


def _affine(own: Any, z: Tensor) -> Tensor:
    theta = torch.eye(2, 3) + z[:, :2, None]
    return F.affine_grid(theta, [len(z), 1, 2, 2], align_corners=False)


OPERATORS = {
    "linalg.inv": after(lambda own, z: torch.linalg.inv(_square(z))),
    "linalg.solve": after(lambda own, z: torch.linalg.solve(_square(z), z)),
    "linalg.cholesky": after(lambda own, z: torch.linalg.cholesky(_square(z))),
    "linalg.qr": after(lambda own, z: torch.linalg.qr(_square(z) + z[:, None]).R),
    "linalg.eigvalsh": after(
        lambda own, z: torch.linalg.eigvalsh(_square(z) + torch.arange(3.0).diag())
    ),
    "linalg.svdvals": after(
        lambda own, z: torch.linalg.svdvals(_square(z) + torch.arange(3.0).diag())
    ),
    "linalg.det": after(
        lambda own, z: torch.linalg.det(_square(z)),
        except_for={"Forward": "a fault of torch's rules"},
    ),
    "linalg.slogdet": after(lambda own, z: torch.linalg.slogdet(_square(z))[1]),
    "linalg.matrix_exp": after(
        lambda own, z: torch.linalg.matrix_exp(0.1 * _square(z))
    ),
    "linalg.matrix_norm": after(
        lambda own, z: torch.linalg.matrix_norm(_square(z) + torch.arange(3.0).diag())
    ),
    "fft.rfft": after(lambda own, z: torch.fft.rfft(z)),
    "stft": after(
        lambda own, z: torch.stft(
            z, 2, 1, 2, torch.ones(2), center=False, return_complex=True
        )
    ),
    "sort": after(lambda own, z: z.sort(1).values),
    "median": after(lambda own, z: z.median(1).values),
    "quantile": after(lambda own, z: z.quantile(0.4, 1)),
    "cummax": after(lambda own, z: z.cummax(1).values),
    "cumprod": after(lambda own, z: z.cumprod(1)),
    "logcumsumexp": after(lambda own, z: z.logcumsumexp(1)),
    "cdist": after(lambda own, z: torch.cdist(z, torch.eye(3))),
    "cdist, p=1": after(lambda own, z: torch.cdist(z, torch.eye(3), p=1.0)),
    "pdist": after(lambda own, z: z * F.pdist(z).mean()),
    "renorm": after(lambda own, z: z.renorm(2, 0, 0.5)),
    "lgamma": after(lambda own, z: z.exp().lgamma()),
    "digamma": after(lambda own, z: z.exp().digamma()),
    "special.zeta": after(
        lambda own, z: torch.special.zeta(z.exp() + 1.5, torch.tensor(1.0)),
        refused="zeta",
    ),
    "special.i0e": after(lambda own, z: torch.special.i0e(z)),
    "erfinv": after(lambda own, z: z.tanh().mul(0.9).erfinv()),
    "grid_sample in the grid": after(
        _sampled, except_for={"Forward": "grid_sampler_2d"}
    ),
    "affine_grid": after(_affine),
    "einsum": after(lambda own, z: torch.einsum("bi,bj->bij", z, z)),
    "scatter_reduce, 'amax'": after(
        lambda own, z: torch.zeros(len(z), 2).scatter_reduce(
            1, torch.tensor([[0, 1, 0]]).expand(len(z), 3), z, "amax"
        )
    ),
    "scatter_reduce, 'prod'": after(
        lambda own, z: torch.ones(len(z), 2).scatter_reduce(
            1, torch.tensor([[0, 1, 0]]).expand(len(z), 3), z, "prod"
        ),
        except_for={"Forward": "a fault of torch's rules"},
    ),
    "index_put": after(
        lambda own, z: torch.zeros(len(z), 4).index_put(
            (torch.arange(len(z)),), F.pad(z, (0, 1))
        )
    ),
    "sparse matrix product": after(
        lambda own, z: torch.sparse.mm(torch.eye(3).to_sparse(), z.T).T,
        except_for={"Forward": "_sparse_addmm"},
    ),
    "binary_cross_entropy": after(
        lambda own, z: F.binary_cross_entropy(
            z.sigmoid(), torch.full_like(z, 0.3), reduction="none"
        )
    ),
    "complex outputs": after(lambda own, z: torch.complex(z, z.tanh())),
    "cross_entropy inside": after(
        lambda own, z: F.cross_entropy(z, z.argmax(1), reduction="none")
    ),
}
