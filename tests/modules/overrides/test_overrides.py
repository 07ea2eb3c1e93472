"""What replaces torch's random functions and fused kernels, against torch's own."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.modules import Noise
from raymeta.modules.overrides.modes import Substitutes

pytestmark = pytest.mark.usefixtures("float64")
MANY = 40_000


def within(function, *args, t: int = 3, **others):
    """A call, and what it was substituted with."""
    with Substitutes(Noise(5, torch.tensor(t))) as rules:
        result = function(*args, **others)
    assert rules.used
    return result


# --------------------------------------------------------------------- random functions


def test_dropout_keeps_a_share_and_the_mean():
    x = torch.ones(MANY)
    y = within(F.dropout, x, 0.3)
    assert sorted(y.unique().tolist()) == [0.0, 1 / 0.7]
    assert float(y.mean()) == pytest.approx(1, abs=4 * math.sqrt(0.3 / 0.7 / MANY))
    assert torch.equal(y, within(F.dropout, x, 0.3))
    assert not torch.equal(y, within(F.dropout, x, 0.3, t=4))
    assert torch.equal(within(F.dropout, x, 0.3, inplace=True), y)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    "function",
    [F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout],
    ids=lambda f: f.__name__,
)
def test_ends_of_dropout(function):
    x = torch.randn(2, 3, 4)
    assert torch.equal(within(function, x, 0.5, training=False), x)
    assert torch.equal(within(function, x, 0.0, training=True), x)
    assert torch.equal(within(function, x, 1.0, training=True), torch.zeros_like(x))


@pytest.mark.parametrize(
    ("function", "shape", "kept"),
    [
        (F.dropout1d, (40, 50, 3), 2),
        (F.dropout1d, (500, 3), 1),
        (F.dropout2d, (40, 50, 3, 2), 2),
        (F.dropout2d, (40, 50, 3), 2),
        (F.dropout3d, (40, 50, 3, 2, 2), 2),
        (F.dropout3d, (500, 3, 2, 2), 1),
        (F.feature_alpha_dropout, (40, 50, 3, 2), 2),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout2d")
def test_whole_channels_are_dropped(function, shape, kept):
    y = within(function, torch.ones(shape), 0.4, training=True).flatten(kept)
    assert torch.equal(y, y[..., :1].expand_as(y))
    low = (y[..., 0] == y.min()).double()
    assert float(low.mean()) == pytest.approx(0.4, abs=0.09)


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    y = within(F.alpha_dropout, x, 0.3, training=True)
    assert float(y.mean()) == pytest.approx(0, abs=0.03)
    assert float(y.var()) == pytest.approx(1, abs=0.04)
    own = F.alpha_dropout(torch.ones(MANY), 0.3, training=True).unique()
    ours = within(F.alpha_dropout, torch.ones(MANY), 0.3, training=True).unique()
    torch.testing.assert_close(ours, own)


def test_rrelu():
    x = torch.linspace(-2, 2, MANY)
    slope = (within(F.rrelu, x, 0.1, 0.3, training=True) / x)[x < 0]
    assert 0.1 < slope.min() < 0.101
    assert 0.299 < slope.max() < 0.3
    assert torch.equal(within(F.rrelu, x, 0.1, 0.3)[x > 0], x[x > 0])
    torch.testing.assert_close(
        within(F.rrelu, x, 0.1, 0.3), F.rrelu(x, 0.1, 0.3, training=False)
    )


P = torch.full((MANY,), 0.3)
DRAWS = {
    "rand": (lambda: torch.rand(MANY), 0.5, 1 / 12),
    "rand of a shape": (lambda: torch.rand((4, MANY // 4)), 0.5, 1 / 12),
    "rand by size": (lambda: torch.rand(size=(MANY,)), 0.5, 1 / 12),
    "randn": (lambda: torch.randn(4, MANY // 4), 0.0, 1.0),
    "rand like": (lambda: torch.rand_like(P), 0.5, 1 / 12),
    "randn like": (lambda: torch.randn_like(P), 0.0, 1.0),
    "bernoulli": (lambda: torch.bernoulli(P.double()), 0.3, 0.21),
    "bernoulli method": (lambda: P.double().bernoulli(), 0.3, 0.21),
    "bernoulli in place": (lambda: torch.empty(MANY).bernoulli_(0.3), 0.3, 0.21),
    "bernoulli of tensors": (lambda: torch.empty(MANY).bernoulli_(P), 0.3, 0.21),
    "uniform": (lambda: torch.empty(MANY).uniform_(-1, 3), 1.0, 4 / 3),
    "normal": (lambda: torch.empty(MANY).normal_(2, 0.5), 2.0, 0.25),
    "exponential": (lambda: torch.empty(MANY).exponential_(2), 0.5, 0.25),
}


@pytest.mark.parametrize(("draw", "mean", "var"), DRAWS.values(), ids=DRAWS)
def test_draws(draw, mean, var):
    before = torch.get_rng_state()
    x = within(draw)
    assert x.shape == draw().shape
    torch.set_rng_state(before)
    assert torch.equal(x, within(draw))
    assert not torch.equal(x, within(draw, t=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(var / MANY))
    assert float(x.var()) == pytest.approx(var, rel=0.06)


def test_gumbel_softmax_draws_by_the_rules():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().expand(MANY, 3)
    chosen = within(F.gumbel_softmax, logits, hard=True).mean(0)
    torch.testing.assert_close(
        chosen, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), atol=0.01, rtol=0
    )


def test_a_generator_of_ones_own_is_left_alone():
    own = torch.rand(3, generator=torch.Generator().manual_seed(0))
    with Substitutes(Noise(5, torch.tensor(0))) as rules:
        again = torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(own, again)
    assert not rules.used


# ------------------------------------------------------------------------ fused kernels


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {
            "attn_mask": torch.tensor(
                [[True] * 5, [False] * 5, [True, False] * 2 + [True]]
            )
        },
        {"attn_mask": torch.linspace(-2, 2, 15).reshape(3, 5).double()},
        {"enable_gqa": True},
    ],
    ids=str,
)
def test_attention(others):
    heads = 2 if others.get("enable_gqa") else 4
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 3, 6, generator=generator)
    k, v = (torch.randn(2, heads, 5, 6, generator=generator) for _ in "kv")
    own = F.scaled_dot_product_attention(q, k, v, **others)
    ours = within(F.scaled_dot_product_attention, q, k, v, **others)
    torch.testing.assert_close(ours, own)


def test_dropout_of_attention():
    q, v = torch.zeros(1, 200, 4), torch.ones(1, 200, 1)
    out = within(F.scaled_dot_product_attention, q, q, v, dropout_p=0.4)
    assert float(out.mean()) == pytest.approx(1, abs=4 * math.sqrt(0.4 / 0.6 / MANY))
    assert len(out.unique()) > 20


BAGS = {
    "rows": ({}, False),
    "offsets": ({}, True),
    "padding": ({"padding_idx": 2}, False),
    "padding from the end": ({"padding_idx": -1}, True),
    "last offset": ({"include_last_offset": True}, True),
}


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize(("others", "offsets"), BAGS.values(), ids=BAGS)
def test_bags(mode, others, offsets):
    words = torch.tensor([[0, 2, 2, 6], [2, 2, 2, 2], [1, 6, 6, 2]])
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    args = (words, weight)
    if offsets:  # one bag is empty
        args = (words.flatten(), weight, torch.tensor([0, 3, 3, 12]))
        if not others.get("include_last_offset"):
            args = (*args[:2], torch.tensor([0, 3, 3, 7]))
    own = F.embedding_bag(*args, mode=mode, **others)
    torch.testing.assert_close(within(F.embedding_bag, *args, mode=mode, **others), own)


def test_bags_with_a_weight_for_every_word():
    words, weight = torch.tensor([[0, 2, 2], [1, 6, 5]]), torch.randn(7, 3)
    others = {"per_sample_weights": torch.randn(2, 3), "mode": "sum"}
    own = F.embedding_bag(words, weight, **others)
    ours = within(F.embedding_bag, words, weight, **others)
    torch.testing.assert_close(ours, own)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM], ids=lambda k: k.__name__)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_recurrent_layers_with_dropout_between_them(kind, packed):
    layer = kind(4, 3, num_layers=3, dropout=1e-14, bidirectional=True)
    x = torch.randn(5, 2, 4)
    if packed:
        x = nn.utils.rnn.pack_padded_sequence(x, [5, 3])

    def tensors(result) -> list[Tensor]:
        output, state = result
        states = state if isinstance(state, tuple) else (state,)
        return [output.data if packed else output, *states]

    pairs = zip(tensors(layer(x)), tensors(within(layer, x)), strict=True)
    for own, ours in pairs:
        torch.testing.assert_close(ours, own)
    layer.dropout = 0.5
    dropped = tensors(within(layer, x))[0]
    assert not torch.allclose(dropped, tensors(layer.eval()(x))[0])


def test_a_single_recurrent_layer_drops_nothing():
    layer, x = nn.GRU(4, 3), torch.randn(5, 2, 4)
    layer.dropout = 0.5
    torch.testing.assert_close(within(layer, x)[0], layer.eval()(x)[0])
