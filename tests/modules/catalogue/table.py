"""The catalogue: every kind of module, in the order of the page."""

from tests.modules.catalogue import (
    layers,
    operators,
    others,
    own,
    sequences,
    stateless,
    weights,
)
from tests.modules.catalogue.kind import Kind

SECTIONS: dict[str, dict[str, Kind]] = {
    "Linear layers": layers.LINEAR,
    "Convolutions": layers.CONVOLUTIONS,
    "Norms": layers.NORMS,
    "Recurrent layers": sequences.RECURRENT,
    "Attention": sequences.ATTENTION,
    "Embeddings": sequences.EMBEDDINGS,
    "Activations": stateless.ACTIVATIONS,
    "Dropout": stateless.DROPOUT,
    "Pooling": stateless.POOLING,
    "Layers that move values": stateless.MOVING,
    "Weights that are computed": weights.COMPUTED,
    "Weights as they are held": weights.HELD,
    "State outside of parameters": own.STATEFUL,
    "Randomness in forward": own.RANDOM,
    "Derivatives of one's own": own.DERIVATIVES,
    "Hooks": own.HOOKS,
    "Control flow": own.FLOW,
    "Operators": operators.OPERATORS,
    "torchvision": others.TORCHVISION,
    "Hugging Face": others.HUGGING_FACE,
}
KINDS: dict[str, Kind] = {
    name: kind for section in SECTIONS.values() for name, kind in section.items()
}
