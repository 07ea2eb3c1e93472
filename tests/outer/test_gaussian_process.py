"""A Gaussian process with derivatives: against autograd, closed forms and integrals."""

import math

import pytest
import torch

from raymeta.outer.gaussian_process import (
    JITTER,
    GaussianProcess,
    Observations,
    Posterior,
    log_expected_improvement,
)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def observed(f, x, gradient_x):
    """Standardized values and gradients of f, both exact."""
    slopes = torch.func.vmap(torch.func.grad(f))(gradient_x)
    y = torch.func.vmap(f)(x)
    scale = y.std(correction=0)
    return Observations(x, (y - y.mean()) / scale, gradient_x, slopes / scale)


def smooth(x):
    return (x - 0.3).square().sum() + (2 * x[0]).sin() * x[1]


def matern(a, b, process):
    """k(a, b), as it is written in books."""
    d = len(a)
    lengths, amplitude = process.log_scales[:d].exp(), process.log_scales[d].exp()
    # With 1e-10: at a = b the differences of autograd's own terms cancel to 11 digits.
    s = math.sqrt(5) * (((a - b) / lengths).square().sum() + 1e-10).sqrt()
    return amplitude**2 * (1 + s + s**2 / 3) * (-s).exp()


@pytest.fixture(scope="module")
def process():
    return GaussianProcess(observed(smooth, 3 * drawn(7, 2), 3 * drawn(3, 2, seed=1)))


def test_the_posterior_is_that_of_the_joint_normal_distribution(process):
    """The covariances of gradients by autograd of the kernel; the rest by a solve."""
    seen = process._seen
    d = seen.x.shape[1]

    def covariance(a, b):
        def k(a, b):
            return matern(a, b, process)

        def column(one):
            rows = [k(one, z) for z in b[0]]
            rows += [torch.func.grad(k, 1)(one, z) for z in b[1]]
            return torch.cat([row.reshape(-1) for row in rows])

        rows = [column(one)[None] for one in a[0]]
        rows += [torch.func.jacrev(column)(one).T for one in a[1]]
        return torch.cat(rows)

    points = (seen.x, seen.gradient_x)
    value_noise, gradient_noise = (2 * process.log_scales[d + 1 :]).exp()
    slope = (5 / 3) * (2 * process.log_scales[d] - 2 * process.log_scales[:d]).exp()
    noise = (
        torch.cat([value_noise.expand(7), (gradient_noise * slope).repeat(3)]) + JITTER
    )
    k = covariance(points, points) + noise.diag()
    y = torch.cat([seen.y, seen.gradients.reshape(-1)])
    ones = torch.cat([torch.ones(7), torch.zeros(3 * d)]).double()
    mean = (ones @ k.inverse() @ y) / (ones @ k.inverse() @ ones)
    z = 3 * drawn(5, d, seed=2)
    across = covariance((z, []), points)
    believed = process.posterior(z)
    expected = mean + across @ k.inverse() @ (y - mean * ones)
    torch.testing.assert_close(believed.mean, expected, rtol=1e-6, atol=1e-7)
    amplitude = (2 * process.log_scales[d]).exp()
    variance = amplitude - (across @ k.inverse() @ across.T).diagonal()
    torch.testing.assert_close(
        believed.deviation.square(), variance, rtol=1e-4, atol=1e-7
    )
    residual = y - mean * ones
    density = -0.5 * (residual @ k.inverse() @ residual + k.logdet())
    prior = ((process.log_scales - process._prior) / process._spread).square().sum()
    assert process.log_density == pytest.approx(float(density - 0.5 * prior), rel=1e-6)


def test_values_and_gradients_of_one_function_are_both_believed(process):
    assert process.gradient_noise < 0.1
    z = 3 * drawn(50, 2, seed=3)
    seen = process._seen
    y = torch.func.vmap(smooth)(seen.x)
    truth = (torch.func.vmap(smooth)(z) - y.mean()) / y.std(correction=0)
    believed = process.posterior(z)
    none = seen.x.new_zeros((0, 2))
    alone = GaussianProcess(Observations(seen.x, seen.y, none, none)).posterior(z)
    error, without = (
        float((each.mean - truth).square().mean().sqrt()) for each in (believed, alone)
    )
    assert error < 0.15
    assert error < 0.5 * without
    within = (believed.mean - truth).abs() < 3 * believed.deviation
    assert float(within.double().mean()) > 0.9


def test_gradients_that_values_contradict_are_noise():
    x, gradient_x = 3 * drawn(12, 2), 3 * drawn(6, 2, seed=1)
    seen = observed(smooth, x, gradient_x)
    wrong = 4 * (2 * drawn(6, 2, seed=5) - 1)
    liar = GaussianProcess(seen._replace(gradients=wrong))
    assert liar.gradient_noise > 0.5
    # What is believed is near to what values alone say.
    none = x.new_zeros((0, 2))
    alone = GaussianProcess(Observations(seen.x, seen.y, none, none))
    z = 3 * drawn(30, 2, seed=4)
    off = (liar.posterior(z).mean - alone.posterior(z).mean).abs()
    assert float(off.mean()) < 0.2


def test_entries_of_gradients_that_were_not_seen_are_left_out():
    x, gradient_x = 3 * drawn(6, 2), 3 * drawn(3, 2, seed=1)
    seen = observed(smooth, x, gradient_x)
    gradients = seen.gradients.clone()
    gradients[1] = math.nan
    some = GaussianProcess(seen._replace(gradients=gradients))
    kept = torch.tensor([0, 2])
    less = seen._replace(gradient_x=gradient_x[kept], gradients=seen.gradients[kept])
    fewer = GaussianProcess(less)
    z = 3 * drawn(20, 2, seed=4)
    torch.testing.assert_close(some.log_scales, fewer.log_scales)
    torch.testing.assert_close(some.posterior(z).mean, fewer.posterior(z).mean)
    assert some.log_density == pytest.approx(fewer.log_density)
    # One entry of it is worth something, and less than both.
    gradients[1, 0] = seen.gradients[1, 0]
    one = GaussianProcess(seen._replace(gradients=gradients), some.log_scales)
    assert bool((one.posterior(z).mean != some.posterior(z).mean).any())


def test_one_observation_is_enough():
    none = torch.zeros((0, 3), dtype=torch.float64)
    at = torch.zeros((1, 3), dtype=torch.float64)
    process = GaussianProcess(Observations(at, torch.zeros(1).double(), none, none))
    believed = process.posterior(torch.cat([at, at + 50]))
    assert believed.mean.tolist() == pytest.approx([0, 0])
    assert believed.deviation[0] < 0.05 < 0.5 < believed.deviation[1]


@pytest.mark.parametrize("best", [2.0, 0.0, -1.0, -4.0, -6.0])
def test_the_expected_improvement_is_that_integral(best):
    """Over a normal density; 2 % where the tail's expansion is."""
    mean, deviation = 0.3, 0.7
    f = torch.linspace(mean - 40 * deviation, best, 4_000_001, dtype=torch.float64)
    density = torch.distributions.Normal(mean, deviation).log_prob(f).exp()
    expected = torch.trapezoid((best - f).clamp(min=0) * density, f).log()
    point = Posterior(*(torch.tensor([v]).double() for v in (mean, deviation)))
    found = log_expected_improvement(point, torch.tensor(best).double())
    assert float(found) == pytest.approx(
        float(expected), abs=0.1 if best < -3 else 1e-6
    )
    far = Posterior(torch.tensor([1e3]).double().requires_grad_(), point.deviation)
    (slope,) = torch.autograd.grad(
        log_expected_improvement(far, torch.tensor(0.0).double()).sum(), far.mean
    )
    assert torch.isfinite(slope).all()
