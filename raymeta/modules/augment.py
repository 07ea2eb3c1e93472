"""Data augmentation whose strength can be learned."""

import torch
from torch import Tensor

from raymeta.modules.counter_rng import Noise


def random_affine(
    images: Tensor,
    noise: Noise,
    *,
    rotation: float | Tensor = 0.0,
    scale: float | Tensor = 0.0,
    translation: float | Tensor = 0.0,
) -> Tensor:
    r"""Rotate, scale and shift each image at random, differentiably in the strengths.

    $$ p \mapsto e^{s u_2} R(r u_1)\, p + d\,(W u_3, H u_4),\qquad u \sim U(-1, 1) $$

    for each image is where the pixel at p, from the centre, is read, by bilinear
    interpolation; outside an image is 0. Unlike `F.grid_sample` it has forward
    derivatives. At strengths of 0 the interpolation has a kink.

    Args:
        images: shape (N, channels, H, W).
        noise: where u comes from.
        rotation: r in radians, a number or shape (), as all strengths.
        scale: s, of the logarithm of the scale.
        translation: d in widths and heights.

    Returns:
        The shape of images.

    Source: Jaderberg et al. 2015, eq. 5 (bilinear sampling).
    """
    count, _, height, width = images.shape
    u = 2 * noise.uniform((4, count, 1, 1), images.dtype) - 1
    y = torch.arange(height, device=u.device, dtype=u.dtype)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=u.device, dtype=u.dtype) - (width - 1) / 2
    angle, factor = rotation * u[0], torch.exp(scale * u[1])
    cos, sin = factor * torch.cos(angle), factor * torch.sin(angle)
    return _bilinear(
        images,
        cos * y + sin * x + translation * height * u[3] + (height - 1) / 2,
        cos * x - sin * y + translation * width * u[2] + (width - 1) / 2,
    )


def _bilinear(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Images (N, channels, H, W) at points y, x in pixels, each (N, H', W')."""
    count, channels, height, width = images.shape
    pixels = images.flatten(2)
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    top, left = y.detach().floor(), x.detach().floor()
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs()) * inside
            at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = at.long().view(count, 1, -1).expand(-1, channels, -1)
            values = pixels.gather(2, index).view(count, channels, *y.shape[1:])
            total = total + weight[:, None] * values
    return total
