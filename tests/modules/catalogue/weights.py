"""Weights that are computed, shared, frozen, complex, pruned, or kept in containers."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.optim.swa_utils import AveragedModel

from tests.modules.catalogue.kind import Kind, Uses, after_linear

_linear: Callable[[], nn.Module] = lambda: nn.Linear(5, 3)  # noqa: E731


def _deprecated(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Made without the warning that it is deprecated."""

    def quietly() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return make()

    return quietly


class _Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


def _symmetric() -> nn.Module:
    layer = nn.Linear(5, 5)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    return layer


def _orthogonal(way: str) -> Kind:
    return Kind(
        lambda: parametrizations.orthogonal(
            nn.Linear(5, 3), orthogonal_map=way, use_trivialization=False
        )
    )


def _pruned(method: Callable[..., Any], **others: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = nn.Linear(5, 3)
        method(layer, "weight", **others)
        return layer

    return make


def _pruned_for_good() -> nn.Module:
    layer = _pruned(prune.l1_unstructured, amount=4)()
    prune.remove(layer, "weight")
    return layer


COMPUTED = {
    "parametrizations.weight_norm": Kind(
        lambda: parametrizations.weight_norm(_linear())
    ),
    "nn.utils.weight_norm": Kind(_deprecated(lambda: nn.utils.weight_norm(_linear()))),
    "parametrizations.spectral_norm": Kind(
        lambda: after_linear(parametrizations.spectral_norm(nn.Linear(6, 3)))
    ),
    "nn.utils.spectral_norm": Kind(
        _deprecated(lambda: after_linear(old_spectral_norm(nn.Linear(6, 3))))
    ),
    **{
        f"parametrizations.orthogonal, {way!r}": _orthogonal(way)
        for way in ("matrix_exp", "cayley", "householder")
    },
    "parametrizations.orthogonal, trivialized": Kind(
        lambda: parametrizations.orthogonal(nn.Linear(5, 5))
    ),
    "register_parametrization of one's own": Kind(_symmetric),
    "prune.l1_unstructured": Kind(_pruned(prune.l1_unstructured, amount=4)),
    "prune.random_unstructured": Kind(_pruned(prune.random_unstructured, amount=4)),
    "prune.ln_structured": Kind(_pruned(prune.ln_structured, amount=1, n=2, dim=0)),
    "prune.remove": Kind(_pruned_for_good),
}


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 5), nn.Linear(5, 5)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).tanh())


def _frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    return net


def _shared() -> nn.Module:
    block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    return nn.Sequential(block, block)


def _parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class _Buffers(nn.Module):
    """A count, and a mask that no state_dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.linear(x) * self.mask


class _ExtraState(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def _spectrum(own: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * own.weights[0], n=5)


HELD = {
    "tied weights": Kind(Tied),
    "a frozen layer": Kind(_frozen),
    "a layer used twice": Kind(_shared),
    "a layer never used": Kind(_Unused),
    "ParameterList": Kind(
        lambda: Uses(
            lambda own, x: torch.stack([x @ w for w in own.weights], 1),
            weights=nn.ParameterList(_parameters((5, 2), (5, 2))),
        )
    ),
    "ParameterDict": Kind(
        lambda: Uses(
            lambda own, x: x @ own.weights["a"] + own.weights["b"],
            weights=nn.ParameterDict(
                dict(zip("ab", _parameters((5, 2), (2,)), strict=True))
            ),
        )
    ),
    "ModuleList and ModuleDict": Kind(
        lambda: Uses(
            lambda own, x: own.heads["a"](own.layers[0](x).tanh()),
            layers=nn.ModuleList([nn.Linear(5, 4)]),
            heads=nn.ModuleDict({"a": nn.Linear(4, 2)}),
        )
    ),
    "a parameter of shape ()": Kind(
        lambda: Uses(
            lambda own, x: own.linear(x) * own.scale,
            linear=nn.Linear(5, 2),
            scale=nn.Parameter(torch.tensor(0.7)),
        )
    ),
    "complex weights": Kind(
        lambda: Uses(
            _spectrum,
            weights=nn.ParameterList([torch.randn(3, dtype=torch.complex128)]),
        ),
        except_for={"higher": "needs real weights"},
    ),
    "a count, and a buffer that is not persistent": Kind(_Buffers),
    "extra state": Kind(lambda: _ExtraState(5, 3)),
    "AveragedModel": Kind(lambda: AveragedModel(nn.Linear(5, 3))),
    "DataParallel": Kind(
        lambda: nn.DataParallel(nn.Linear(5, 3)), refused="cannot train DataParallel"
    ),
    "torch.fx.GraphModule": Kind(lambda: torch.fx.symbolic_trace(_frozen())),
    "torch.jit.ScriptModule": Kind(
        _deprecated(lambda: torch.jit.trace(nn.Linear(5, 3), torch.zeros(1, 5))),
        refused="whose weights are compiled in",
    ),
}
