"""Activations, dropout, pooling and layers that move values about."""

from typing import Any

import torch
from torch import nn

from tests.modules.catalogue.kind import Kind, Uses, after_conv, after_linear, pair

LINE, IMAGE, VOLUME = (2, 5), (2, 3, 3), (2, 4, 4, 4)

_PLAIN = (
    *("ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
    *("Softplus", "Softshrink", "Hardshrink", "Hardtanh", "Hardswish", "Hardsigmoid"),
    *("Tanh", "Tanhshrink", "Sigmoid", "LogSigmoid", "Softsign", "GLU"),
)
ACTIVATIONS = {
    **{
        name: Kind(lambda name=name: after_linear(getattr(nn, name)()))
        for name in _PLAIN
    },
    **{
        name: Kind(lambda name=name: after_linear(getattr(nn, name)(dim=1)))
        for name in ("Softmax", "LogSoftmax", "Softmin")
    },
    "Softmax2d": Kind(lambda: after_conv(nn.Softmax2d()), IMAGE),
    "GELU, approximate='tanh'": Kind(lambda: after_linear(nn.GELU(approximate="tanh"))),
    "Threshold": Kind(lambda: after_linear(nn.Threshold(0.1, -0.2))),
    "ReLU, inplace=True": Kind(lambda: after_linear(nn.ReLU(inplace=True))),
    "PReLU": Kind(lambda: after_linear(nn.PReLU())),
    "PReLU of channels": Kind(lambda: after_conv(nn.PReLU(4)), IMAGE),
    "RReLU": Kind(lambda: after_linear(nn.RReLU()), random=True),
}

DROPOUT = {
    **{
        name: Kind(
            lambda name=name, ndim=ndim: after_conv(getattr(nn, name)(0.4), ndim=ndim),
            shape,
            random=True,
        )
        for name, ndim, shape in (
            ("Dropout1d", 1, LINE),
            ("Dropout2d", 2, IMAGE),
            ("Dropout3d", 3, VOLUME),
            ("FeatureAlphaDropout", 2, IMAGE),
        )
    },
    "Dropout": Kind(lambda: after_linear(nn.Dropout(0.4)), random=True, compiled=True),
    "Dropout, inplace=True": Kind(
        lambda: after_linear(nn.Dropout(0.4, inplace=True)), random=True
    ),
    "AlphaDropout": Kind(lambda: after_linear(nn.AlphaDropout(0.4)), random=True),
}


def _unpool(own: Any, x: torch.Tensor) -> torch.Tensor:
    y, index = own.pool(own.conv(x))
    return own.unpool(y, index, output_size=x.shape[-2:])


POOLING = {
    "MaxPool1d": Kind(lambda: after_conv(nn.MaxPool1d(2), ndim=1), LINE),
    "MaxPool2d": Kind(lambda: after_conv(nn.MaxPool2d(2)), IMAGE),
    "MaxPool3d": Kind(lambda: after_conv(nn.MaxPool3d(2), ndim=3), VOLUME),
    "MaxUnpool2d": Kind(
        lambda: Uses(
            _unpool,
            conv=nn.Conv2d(2, 2, 1),
            pool=nn.MaxPool2d(2, return_indices=True),
            unpool=nn.MaxUnpool2d(2),
        ),
        (2, 4, 4),
    ),
    "AvgPool1d": Kind(lambda: after_conv(nn.AvgPool1d(2), ndim=1), LINE),
    "AvgPool2d": Kind(lambda: after_conv(nn.AvgPool2d(2)), IMAGE),
    "AvgPool3d": Kind(lambda: after_conv(nn.AvgPool3d(2), ndim=3), VOLUME),
    "AdaptiveAvgPool1d": Kind(
        lambda: after_conv(nn.AdaptiveAvgPool1d(2), ndim=1), LINE
    ),
    "AdaptiveAvgPool2d": Kind(lambda: after_conv(nn.AdaptiveAvgPool2d(2)), IMAGE),
    "AdaptiveAvgPool3d": Kind(
        lambda: after_conv(nn.AdaptiveAvgPool3d(2), ndim=3), VOLUME
    ),
    "AdaptiveMaxPool1d": Kind(
        lambda: after_conv(nn.AdaptiveMaxPool1d(2), ndim=1), LINE
    ),
    "AdaptiveMaxPool2d": Kind(lambda: after_conv(nn.AdaptiveMaxPool2d(2)), IMAGE),
    "AdaptiveMaxPool3d": Kind(
        lambda: after_conv(nn.AdaptiveMaxPool3d(2), ndim=3), VOLUME
    ),
    "FractionalMaxPool2d": Kind(
        lambda: after_conv(nn.FractionalMaxPool2d(2, output_size=2)),
        (2, 4, 4),
        random=True,
    ),
    "FractionalMaxPool3d": Kind(
        lambda: after_conv(nn.FractionalMaxPool3d(2, output_size=2), ndim=3),
        VOLUME,
        random=True,
    ),
    "LPPool1d": Kind(lambda: after_conv(nn.LPPool1d(2, 2), ndim=1), LINE),
    "LPPool2d": Kind(lambda: after_conv(nn.LPPool2d(2, 2)), IMAGE),
    "LPPool3d": Kind(lambda: after_conv(nn.LPPool3d(2, 2), ndim=3), VOLUME),
}


def _fold(own: Any, x: torch.Tensor) -> torch.Tensor:
    return own.fold(own.unfold(own.conv(x)))


MOVING = {
    "Flatten and Unflatten": Kind(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.Unflatten(1, (2, 2))),
        IMAGE,
    ),
    "Fold and Unfold": Kind(
        lambda: Uses(
            _fold,
            conv=nn.Conv2d(2, 2, 1),
            unfold=nn.Unfold(2),
            fold=nn.Fold((3, 3), 2),
        ),
        IMAGE,
    ),
    "PixelShuffle": Kind(lambda: after_conv(nn.PixelShuffle(2)), IMAGE),
    "PixelUnshuffle": Kind(lambda: after_conv(nn.PixelUnshuffle(2)), (2, 4, 4)),
    "ChannelShuffle": Kind(lambda: after_conv(nn.ChannelShuffle(2)), IMAGE),
    **{
        f"Upsample, mode={mode!r}": Kind(
            lambda mode=mode: after_conv(nn.Upsample(scale_factor=2, mode=mode)), IMAGE
        )
        for mode in ("nearest", "bilinear", "bicubic")
    },
    **{
        f"{name}2d": Kind(
            lambda name=name: after_conv(getattr(nn, f"{name}2d")(1)), IMAGE
        )
        for name in ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")
    },
    "CosineSimilarity": Kind(
        lambda: Uses(
            lambda own, x, y: own.measure(own.linear(x), y),
            linear=nn.Linear(4, 3),
            measure=nn.CosineSimilarity(),
        ),
        pair((4,), (3,)),
    ),
    "PairwiseDistance": Kind(
        lambda: Uses(
            lambda own, x, y: own.measure(own.linear(x), y),
            linear=nn.Linear(4, 3),
            measure=nn.PairwiseDistance(),
        ),
        pair((4,), (3,)),
    ),
}
