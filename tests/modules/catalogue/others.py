"""Building blocks of torchvision and of Hugging Face, where they are installed."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from tests.modules.catalogue.kind import Draw, Kind, Uses, words

IMAGE, TEXT = (4, 4, 4), (2, 4)


def _vision(build: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build(import_module("torchvision"))


def _of(path: str) -> Any:
    """A class of transformers by its module and name."""
    home, name = path.rsplit(".", 1)
    return getattr(import_module(f"transformers.models.{home}"), name)


def _without_dropout(**sizes: Any) -> dict[str, Any]:
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return {**dict.fromkeys(rates, 0.0), **sizes}


def _bert() -> Any:
    return _of("bert.configuration_bert.BertConfig")(
        hidden_size=4,
        num_attention_heads=2,
        intermediate_size=4,
        vocab_size=5,
        num_hidden_layers=1,
        max_position_embeddings=4,
        **_without_dropout(),
    )


def _gpt2() -> Any:
    return _of("gpt2.configuration_gpt2.GPT2Config")(
        n_embd=4,
        n_head=2,
        n_layer=1,
        n_positions=4,
        vocab_size=5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _last(own: Any, x: Tensor) -> Tensor:
    return own.model(x, use_cache=False).last_hidden_state


_WORDS: Draw = words(3)
TORCHVISION = {
    "torchvision BasicBlock": Kind(
        _vision(lambda tv: tv.models.resnet.BasicBlock(4, 4)), IMAGE
    ),
    "torchvision Bottleneck": Kind(
        _vision(lambda tv: tv.models.resnet.Bottleneck(4, 1)), IMAGE
    ),
    "torchvision SqueezeExcitation": Kind(
        _vision(lambda tv: tv.ops.SqueezeExcitation(4, 2)), IMAGE
    ),
    "torchvision Conv2dNormActivation": Kind(
        _vision(lambda tv: tv.ops.Conv2dNormActivation(4, 2)), IMAGE
    ),
    "torchvision MLP": Kind(_vision(lambda tv: tv.ops.MLP(4, [3, 2])), (4,)),
    "torchvision StochasticDepth": Kind(
        _vision(
            lambda tv: nn.Sequential(
                nn.Conv2d(4, 4, 1), tv.ops.StochasticDepth(0.4, "row")
            )
        ),
        IMAGE,
        random=True,
    ),
    "torchvision FrozenBatchNorm2d": Kind(
        _vision(
            lambda tv: nn.Sequential(nn.Conv2d(4, 4, 1), tv.ops.FrozenBatchNorm2d(4))
        ),
        IMAGE,
    ),
    "torchvision EncoderBlock (ViT)": Kind(
        _vision(
            lambda tv: tv.models.vision_transformer.EncoderBlock(2, 4, 4, 0.0, 0.0)
        ),
        TEXT,
    ),
}
HUGGING_FACE = {
    "transformers BertModel": Kind(
        lambda: Uses(
            _last,
            model=_of("bert.modeling_bert.BertModel")(_bert(), add_pooling_layer=False),
        ),
        _WORDS,
    ),
    "transformers GPT2Model": Kind(
        lambda: Uses(
            _last,
            model=_of("gpt2.modeling_gpt2.GPT2Model")(_gpt2()),
        ),
        _WORDS,
    ),
}


def _reason(name: str) -> str:
    """Why a package cannot be used here; "" where it can."""
    try:
        import_module(name)
    except Exception as error:  # also one that was built for another torch
        return f"{name} cannot be imported: {type(error).__name__}"
    return ""


_MISSING = {
    "torchvision": _reason("torchvision"),
    "transformers": _reason("transformers"),
}
#: Kind -> why it is not tried here.
REASONS = {
    kind: _MISSING[kind.split()[0]]
    for kind in (*TORCHVISION, *HUGGING_FACE)
    if _MISSING[kind.split()[0]]
}
