"""Linear and convolutional layers, norms, and what is filled in at a first call."""

from torch import nn

from tests.modules.catalogue.kind import Kind, after_conv, after_linear, pair

LINE, IMAGE, VOLUME = (2, 5), (2, 3, 3), (2, 3, 2, 2)
_LAZY = "needs a module whose tensors have a shape"

LINEAR = {
    "Linear": Kind(lambda: nn.Linear(5, 3), compiled=True),
    "Linear without bias": Kind(lambda: nn.Linear(5, 3, bias=False)),
    "Bilinear": Kind(lambda: nn.Bilinear(3, 2, 2), pair((3,), (2,))),
    "LazyLinear": Kind(lambda: nn.LazyLinear(3), refused=_LAZY),
    "Identity between": Kind(lambda: after_linear(nn.Identity())),
}

CONVOLUTIONS = {
    "Conv1d": Kind(lambda: nn.Conv1d(2, 2, 3, padding=1), LINE),
    "Conv2d": Kind(lambda: nn.Conv2d(2, 2, 2), IMAGE),
    "Conv3d": Kind(lambda: nn.Conv3d(2, 2, 2), VOLUME),
    "Conv2d, depthwise": Kind(lambda: nn.Conv2d(2, 4, 2, groups=2), IMAGE),
    "Conv2d, strided and dilated": Kind(
        lambda: nn.Conv2d(2, 2, 2, stride=2, padding=1, dilation=2), IMAGE
    ),
    "Conv2d, padding='same'": Kind(lambda: nn.Conv2d(2, 2, 2, padding="same"), IMAGE),
    **{
        f"Conv2d, padding_mode={mode!r}": Kind(
            lambda mode=mode: nn.Conv2d(2, 2, 2, padding=1, padding_mode=mode), IMAGE
        )
        for mode in ("circular", "reflect", "replicate")
    },
    "ConvTranspose1d": Kind(lambda: nn.ConvTranspose1d(2, 2, 2, stride=2), LINE),
    "ConvTranspose2d": Kind(
        lambda: nn.ConvTranspose2d(2, 2, 2, output_padding=1, stride=2), IMAGE
    ),
    "ConvTranspose3d": Kind(lambda: nn.ConvTranspose3d(2, 1, 2), VOLUME),
    **{
        name: Kind(lambda name=name: getattr(nn, name)(2, 2), shape, refused=_LAZY)
        for name, shape in {
            "LazyConv1d": LINE,
            "LazyConv2d": IMAGE,
            "LazyConv3d": VOLUME,
            "LazyConvTranspose1d": LINE,
            "LazyConvTranspose2d": IMAGE,
            "LazyConvTranspose3d": VOLUME,
        }.items()
    },
}

NORMS = {
    "BatchNorm1d": Kind(lambda: after_linear(nn.BatchNorm1d(6))),
    "BatchNorm2d": Kind(lambda: after_conv(nn.BatchNorm2d(4)), IMAGE),
    "BatchNorm3d": Kind(lambda: after_conv(nn.BatchNorm3d(4), ndim=3), VOLUME),
    "BatchNorm1d, momentum=None": Kind(
        lambda: after_linear(nn.BatchNorm1d(6, momentum=None))
    ),
    "BatchNorm1d, affine=False": Kind(
        lambda: after_linear(nn.BatchNorm1d(6, affine=False))
    ),
    "BatchNorm1d, track_running_stats=False": Kind(
        lambda: after_linear(nn.BatchNorm1d(6, track_running_stats=False))
    ),
    "BatchNorm1d, batch_norm='batch'": Kind(
        lambda: after_linear(nn.BatchNorm1d(6)),
        others={"batch_norm": "batch"},
        random=True,
    ),
    "BatchNorm1d, batch_norm='frozen'": Kind(
        lambda: after_linear(nn.BatchNorm1d(6)),
        others={"batch_norm": "frozen"},
        random=True,
    ),
    "SyncBatchNorm": Kind(
        lambda: after_linear(nn.SyncBatchNorm(6)),
        refused="running statistics of SyncBatchNorm",
    ),
    "LazyBatchNorm1d": Kind(lambda: after_linear(nn.LazyBatchNorm1d()), refused=_LAZY),
    "LazyBatchNorm2d": Kind(
        lambda: after_conv(nn.LazyBatchNorm2d()), IMAGE, refused=_LAZY
    ),
    "LazyBatchNorm3d": Kind(
        lambda: after_conv(nn.LazyBatchNorm3d(), ndim=3), VOLUME, refused=_LAZY
    ),
    "InstanceNorm1d": Kind(
        lambda: after_conv(nn.InstanceNorm1d(4, affine=True), ndim=1), LINE
    ),
    "InstanceNorm2d": Kind(lambda: after_conv(nn.InstanceNorm2d(4)), IMAGE),
    "InstanceNorm3d": Kind(
        lambda: after_conv(nn.InstanceNorm3d(4, affine=True), ndim=3), VOLUME
    ),
    "InstanceNorm2d, track_running_stats=True": Kind(
        lambda: after_conv(nn.InstanceNorm2d(4, track_running_stats=True)),
        IMAGE,
        refused="InstanceNorm2d",
    ),
    "LazyInstanceNorm1d": Kind(
        lambda: after_conv(nn.LazyInstanceNorm1d(affine=True), ndim=1),
        LINE,
        refused=_LAZY,
    ),
    "LazyInstanceNorm2d": Kind(
        lambda: after_conv(nn.LazyInstanceNorm2d(affine=True)), IMAGE, refused=_LAZY
    ),
    "LazyInstanceNorm3d": Kind(
        lambda: after_conv(nn.LazyInstanceNorm3d(affine=True), ndim=3),
        VOLUME,
        refused=_LAZY,
    ),
    "LayerNorm": Kind(lambda: after_linear(nn.LayerNorm(6))),
    "LayerNorm, bias=False": Kind(lambda: after_linear(nn.LayerNorm(6, bias=False))),
    "LayerNorm, elementwise_affine=False": Kind(
        lambda: after_linear(nn.LayerNorm(6, elementwise_affine=False))
    ),
    "GroupNorm": Kind(lambda: after_conv(nn.GroupNorm(2, 4)), IMAGE),
    "RMSNorm": Kind(lambda: after_linear(nn.RMSNorm(6))),
    "LocalResponseNorm": Kind(lambda: after_conv(nn.LocalResponseNorm(2)), IMAGE),
    "CrossMapLRN2d": Kind(
        lambda: after_conv(nn.CrossMapLRN2d(3)),
        IMAGE,
        refused="cannot be called with the first batch",
    ),
}
