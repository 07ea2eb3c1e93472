"""Other libraries' ways of training and tracking, one a file, imported on demand."""

from importlib import import_module
from types import ModuleType

_LIBRARIES = ("accelerate", "lightning", "mlflow", "transformers", "wandb")


def __getattr__(name: str) -> ModuleType:
    if name in _LIBRARIES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
