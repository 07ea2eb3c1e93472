"""Layers and functions whose derivative jumps, and what is smooth in their place."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode

#: Class of torch.nn -> its functions by name, and what is smooth instead.
NON_SMOOTH: dict[str, tuple[tuple[str, ...], str]] = {
    "ReLU": (("relu", "relu_"), "GELU or SiLU"),
    "ReLU6": (("relu6",), "GELU or SiLU"),
    "LeakyReLU": (("leaky_relu", "leaky_relu_"), "GELU or SiLU"),
    "PReLU": (("prelu",), "GELU or SiLU"),
    "RReLU": (("rrelu", "rrelu_"), "GELU or SiLU"),
    "SELU": (("selu", "selu_"), "GELU or SiLU"),
    "Threshold": (("threshold", "threshold_"), "Softplus"),
    "Hardtanh": (("hardtanh", "hardtanh_"), "Tanh"),
    "Hardsigmoid": (("hardsigmoid",), "Sigmoid"),
    "Hardswish": (("hardswish",), "SiLU"),
    "Hardshrink": (("hardshrink",), "Tanhshrink"),
    "Softshrink": (("softshrink",), "Tanhshrink"),
    "MaxPool1d": (("max_pool1d",), "AvgPool1d"),
    "MaxPool2d": (("max_pool2d",), "AvgPool2d"),
    "MaxPool3d": (("max_pool3d",), "AvgPool3d"),
    "AdaptiveMaxPool1d": (("adaptive_max_pool1d",), "AdaptiveAvgPool1d"),
    "AdaptiveMaxPool2d": (("adaptive_max_pool2d",), "AdaptiveAvgPool2d"),
    "AdaptiveMaxPool3d": (("adaptive_max_pool3d",), "AdaptiveAvgPool3d"),
    "FractionalMaxPool2d": (("fractional_max_pool2d",), "AvgPool2d"),
    "L1Loss": (("l1_loss",), "SmoothL1Loss"),
    "MultiMarginLoss": (("multi_margin_loss",), "CrossEntropyLoss"),
    "HingeEmbeddingLoss": (("hinge_embedding_loss",), "SoftMarginLoss"),
}
_OF_FUNCTION = {name: kind for kind, (names, _) in NON_SMOOTH.items() for name in names}


class NonSmooth(NamedTuple):
    """A layer, or a function of a step, whose derivative jumps.

    Attributes:
        path: where the layer is in its module; "" for a function.
        kind: the layer's class, or the function's name.
        instead: what is smooth in its place.
    """

    path: str
    kind: str
    instead: str


def non_smooth_layers(module: nn.Module) -> list[NonSmooth]:
    """The layers of a module whose derivative jumps, those of derived classes too."""
    found = []
    for path, layer in module.named_modules():
        names = (cls.__name__ for cls in type(layer).__mro__)
        kind = next((name for name in names if name in NON_SMOOTH), None)
        if kind is not None:
            found.append(NonSmooth(path, kind, NON_SMOOTH[kind][1]))
    return found


def put_instead(parts: Sequence[NonSmooth]) -> str:
    """What to put for the first kind of what is not smooth, and where."""
    kind, instead = parts[0].kind, parts[0].instead
    paths = [part.path for part in parts if part.kind == kind and part.path]
    at = f" at {', '.join(paths)}" if paths else ""
    return f"put {instead} for {kind}{at}"


class NonSmoothFunctions(TorchFunctionMode):
    """Notes, by the class of torch.nn that stands for it, what is called within it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function."""
        name = str(getattr(func, "__name__", "")).removesuffix("_with_indices")
        name = name.removeprefix("_")
        if name in _OF_FUNCTION:
            self._seen.setdefault(_OF_FUNCTION[name], name)
        return func(*args, **(kwargs or {}))

    def beside(self, layers: Iterable[NonSmooth]) -> list[NonSmooth]:
        """What was called, but for what these layers call."""
        known = {layer.kind for layer in layers}
        return [
            NonSmooth("", f"{name}()", NON_SMOOTH[kind][1])
            for kind, name in self._seen.items()
            if kind not in known
        ]
