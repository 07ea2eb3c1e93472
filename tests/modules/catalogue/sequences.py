"""Recurrent layers, attention, transformers and embeddings."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.modules.catalogue.kind import WORDS, Draw, Kind, Uses, first, pair, words

TEXT = (2, 4)


def _rnn(kind: type[nn.RNNBase], *sizes: int, **others: Any) -> Kind:
    random = bool(others.get("dropout"))
    others = {"batch_first": True, **others}
    return Kind(lambda: first(kind(4, *(sizes or (3,)), **others)), TEXT, random=random)


def _cell(kind: type[nn.RNNCellBase]) -> Kind:
    def call(own: Any, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = own.cell(step, state)
        return state[0] if isinstance(state, tuple) else state

    return Kind(lambda: Uses(call, cell=kind(4, 3)), TEXT)


def _packed(own: Any, x: Tensor) -> Tensor:
    lengths = torch.arange(len(x)) % x.shape[1] + 1
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(own.rnn(packed)[0], True, total_length=x.shape[1])[0]


RECURRENT = {
    "RNN": _rnn(nn.RNN),
    "RNN, nonlinearity='relu'": _rnn(nn.RNN, nonlinearity="relu"),
    "RNN, batch_first=False": Kind(
        lambda: Uses(
            lambda own, x: own.rnn(x.transpose(0, 1))[0].transpose(0, 1),
            rnn=nn.RNN(4, 3),
        ),
        TEXT,
    ),
    "LSTM": _rnn(nn.LSTM),
    "LSTM, proj_size": _rnn(nn.LSTM, proj_size=2),
    "LSTM, two layers, both ways": _rnn(nn.LSTM, 3, 2, bidirectional=True),
    "LSTM, two layers with dropout": _rnn(nn.LSTM, 3, 2, dropout=0.4),
    "LSTM, last hidden state": Kind(
        lambda: Uses(
            lambda own, x: own.rnn(x)[1][0][-1], rnn=nn.LSTM(4, 3, batch_first=True)
        ),
        TEXT,
    ),
    "GRU": _rnn(nn.GRU),
    "GRU, two layers, both ways": _rnn(nn.GRU, 3, 2, bidirectional=True),
    "GRU, two layers with dropout": _rnn(nn.GRU, 3, 2, dropout=0.4),
    "GRU, packed sequences": Kind(
        lambda: Uses(_packed, rnn=nn.GRU(4, 3, batch_first=True)),
        TEXT,
        except_for={"Forward": "_pack_padded_sequence"},
    ),
    "LSTM, packed sequences": Kind(
        lambda: Uses(_packed, rnn=nn.LSTM(4, 3, batch_first=True)),
        TEXT,
        except_for={"Forward": "_pack_padded_sequence"},
    ),
    "RNNCell": _cell(nn.RNNCell),
    "LSTMCell": _cell(nn.LSTMCell),
    "GRUCell": _cell(nn.GRUCell),
}


def _self_attention(call: Any = None, **others: Any) -> Kind:
    def whole(own: Any, x: Tensor) -> Tensor:
        return own.heads(x, x, x)[0]

    return Kind(
        lambda: Uses(
            call or whole, heads=nn.MultiheadAttention(4, 2, batch_first=True, **others)
        ),
        TEXT,
        random=bool(others.get("dropout")),
    )


def _causal(own: Any, x: Tensor) -> Tensor:
    mask = {"attn_mask": _future(x), "is_causal": True}
    return own.heads(x, x, x, need_weights=False, **mask)[0]


def _padded(own: Any, x: Tensor) -> Tensor:
    mask = {"key_padding_mask": _last(x)}
    return own.heads(x, x, x, average_attn_weights=False, **mask)[0]


def _causal_and_padded(own: Any, x: Tensor) -> Tensor:
    masks = {"attn_mask": _future(x), "key_padding_mask": _added(_last(x))}
    return own.heads(x, x, x, is_causal=True, need_weights=False, **masks)[0]


def _of_each_head(own: Any, x: Tensor) -> Tensor:
    mask = _future(x).expand(2 * len(x), -1, -1)
    return own.heads(x, x, x, attn_mask=mask, need_weights=False)[0]


def _future(x: Tensor) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1])


def _last(x: Tensor) -> Tensor:
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding[:, -1] = True
    return padding


def _added(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(mask, -math.inf)


def _all_masks(own: Any, x: Tensor, y: Tensor) -> Tensor:
    """Boolean ones of the memory, and additive ones of the target."""
    return own.layer(
        x,
        y,
        tgt_mask=_future(x),
        memory_mask=torch.ones(x.shape[1], y.shape[1]).triu(1).bool(),
        tgt_key_padding_mask=_added(_last(x)),
        memory_key_padding_mask=_last(y),
    )


def _scaled(**others: Any) -> Kind:
    def call(own: Any, x: Tensor) -> Tensor:
        q, k, v = own.project(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, **others)

    return Kind(
        lambda: Uses(call, project=nn.Linear(4, 12)),
        TEXT,
        random=bool(others.get("dropout_p")),
    )


def _encoder(**others: Any) -> nn.Module:
    arguments = {"dropout": 0.0, "batch_first": True, "dim_feedforward": 4}
    return nn.TransformerEncoderLayer(4, 2, **(arguments | others))


def _decoder(**others: Any) -> nn.Module:
    arguments = {"dropout": 0.0, "batch_first": True} | others
    return nn.TransformerDecoderLayer(4, 2, 4, **arguments)


ATTENTION = {
    "MultiheadAttention": _self_attention(),
    "MultiheadAttention, kdim and vdim": Kind(
        lambda: Uses(
            lambda own, x, y: own.heads(x, y, y)[0],
            heads=nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True),
        ),
        pair((2, 4), (2, 3)),
    ),
    "MultiheadAttention, add_bias_kv, add_zero_attn": _self_attention(
        add_bias_kv=True, add_zero_attn=True
    ),
    "MultiheadAttention, causal, need_weights=False": _self_attention(_causal),
    "MultiheadAttention, padded, weights of each head": _self_attention(_padded),
    "MultiheadAttention, causal and padded": _self_attention(_causal_and_padded),
    "MultiheadAttention, a mask of each head": _self_attention(_of_each_head),
    "MultiheadAttention, dropout": _self_attention(dropout=0.4),
    "scaled_dot_product_attention": _scaled(),
    "scaled_dot_product_attention, causal": _scaled(is_causal=True),
    "scaled_dot_product_attention, dropout": _scaled(dropout_p=0.4),
    "TransformerEncoderLayer": Kind(_encoder, TEXT),
    "TransformerEncoderLayer, norm_first, gelu": Kind(
        lambda: _encoder(norm_first=True, activation="gelu"), TEXT
    ),
    "TransformerEncoderLayer, dropout": Kind(
        lambda: _encoder(dropout=0.3), TEXT, random=True
    ),
    "TransformerEncoder": Kind(
        lambda: nn.TransformerEncoder(_encoder(), 2, norm=nn.LayerNorm(4)), TEXT
    ),
    "TransformerDecoderLayer": Kind(
        lambda: Uses(lambda own, x, y: own.layer(x, y), layer=_decoder()),
        pair((2, 4), (2, 4)),
    ),
    "TransformerDecoder": Kind(
        lambda: Uses(
            lambda own, x, y: own.layer(x, y),
            layer=nn.TransformerDecoder(_decoder(), 1),
        ),
        pair((2, 4), (2, 4)),
    ),
    "TransformerDecoderLayer, norm_first, all masks": Kind(
        lambda: Uses(_all_masks, layer=_decoder(norm_first=True)),
        pair((2, 4), (2, 4)),
    ),
    "TransformerDecoder, all masks": Kind(
        lambda: Uses(_all_masks, layer=nn.TransformerDecoder(_decoder(), 1)),
        pair((2, 4), (2, 4)),
    ),
    "Transformer": Kind(
        lambda: nn.Transformer(4, 2, 1, 1, 4, dropout=0.0, batch_first=True),
        pair((2, 4), (2, 4)),
    ),
}


def _weighted(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    index = torch.randint(WORDS, (n, 4), generator=generator)
    return index, torch.rand(n, 4, generator=generator)


def _bag(**others: Any) -> nn.Module:
    return nn.EmbeddingBag(WORDS, 3, **others)


def _offsets(last: bool) -> Any:
    def call(own: Any, x: Tensor) -> Tensor:
        ends = torch.arange(0, x.numel() + (4 if last else 0), 4)
        return own.bag(x.flatten(), ends)

    return call


_WEIGHTED: Draw = _weighted
EMBEDDINGS = {
    "Embedding": Kind(lambda: nn.Embedding(WORDS, 3), words(4)),
    "Embedding, padding_idx": Kind(
        lambda: nn.Embedding(WORDS, 3, padding_idx=1), words(4)
    ),
    "Embedding, sparse=True": Kind(
        lambda: nn.Embedding(WORDS, 3, sparse=True), words(4)
    ),
    "Embedding, scale_grad_by_freq=True": Kind(
        lambda: nn.Embedding(WORDS, 3, scale_grad_by_freq=True),
        words(4),
        refused="scale_grad_by_freq",
    ),
    "Embedding, max_norm": Kind(
        lambda: nn.Embedding(WORDS, 3, max_norm=1.0), words(4), refused="max_norm"
    ),
    "EmbeddingBag, mode='mean'": Kind(_bag, words(4)),
    "EmbeddingBag, mode='sum'": Kind(lambda: _bag(mode="sum"), words(4)),
    "EmbeddingBag, mode='max'": Kind(lambda: _bag(mode="max"), words(4)),
    "EmbeddingBag, padding_idx": Kind(lambda: _bag(padding_idx=1), words(4)),
    "EmbeddingBag, sparse=True": Kind(lambda: _bag(sparse=True), words(4)),
    "EmbeddingBag, offsets": Kind(lambda: Uses(_offsets(False), bag=_bag()), words(4)),
    "EmbeddingBag, include_last_offset=True": Kind(
        lambda: Uses(_offsets(True), bag=_bag(include_last_offset=True)), words(4)
    ),
    "EmbeddingBag, per_sample_weights": Kind(
        lambda: Uses(
            lambda own, x, w: own.bag(x, per_sample_weights=w), bag=_bag(mode="sum")
        ),
        _WEIGHTED,
    ),
    "EmbeddingBag, scale_grad_by_freq=True": Kind(
        lambda: _bag(scale_grad_by_freq=True), words(4), refused="scale_grad_by_freq"
    ),
    "EmbeddingBag, max_norm": Kind(
        lambda: _bag(max_norm=1.0), words(4), refused="max_norm"
    ),
}
