import numpy as np
import ot as pot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign import ot


def _gaussians(count: int, width: int, full: bool, seed: int, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    mean = scale * torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    if not full:
        return mean, scale**2 * (0.1 + torch.rand(2, count, width, generator=generator, dtype=torch.float64))
    root = torch.randn(2, count, width, width + 2, generator=generator, dtype=torch.float64)
    return mean, scale**2 * (root @ root.mT / width)


def _reference(mean_x, covariance_x, mean_y, covariance_y):
    """POT's distance for each pair, by matrix square roots."""
    full = covariance_x.dim() > mean_x.dim()
    cost = np.zeros((mean_x.shape[0], mean_x.shape[1], mean_y.shape[1]))
    for index in np.ndindex(cost.shape):
        x, y = index[:2], (index[0], index[2])
        sigma_x, sigma_y = covariance_x[x], covariance_y[y]
        if not full:
            sigma_x, sigma_y = sigma_x.diag(), sigma_y.diag()
        arrays = (t.numpy() for t in (mean_x[x], mean_y[y], sigma_x, sigma_y))
        cost[index] = pot.gaussian.bures_wasserstein_distance(*arrays) ** 2
    return torch.from_numpy(cost)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 5), st.booleans(), st.sampled_from([1e-2, 1.0, 1e2]), st.integers(0, 99))
def test_agrees_with_matrix_square_roots(count, width, full, scale, seed):
    x, y = _gaussians(count, width, full, seed, scale), _gaussians(3, width, full, seed + 1, scale)
    expected = _reference(*x, *y)
    # A millionth of the variance, which full covariances get on their diagonal, moves a cost by two millionths of it.
    torch.testing.assert_close(ot.bures_cost(*x, *y), expected, rtol=1e-4, atol=5e-5 * scale**2)
    in_fp32 = ot.bures_cost(*(t.float() for t in (*x, *y)))
    assert in_fp32.dtype == torch.float32
    torch.testing.assert_close(in_fp32.double(), expected, rtol=1e-3, atol=1e-4 * scale**2)


def test_diagonal_is_the_full_cost_of_diagonal_matrices():
    x, y = _gaussians(3, 4, False, 0), _gaussians(2, 4, False, 1)
    full = ot.bures_cost(x[0], x[1].diag_embed(), y[0], y[1].diag_embed())
    torch.testing.assert_close(ot.bures_cost(*x, *y), full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_gradcheck(full):
    (mean_x, covariance_x), (mean_y, covariance_y) = _gaussians(2, 3, full, 0), _gaussians(2, 3, full, 1)
    inputs = [t.requires_grad_() for t in (mean_x, covariance_x, mean_y, covariance_y)]
    # The constant ridge of a full covariance follows its trace, which the gradient leaves out: a millionth.
    assert torch.autograd.gradcheck(ot.bures_cost, inputs, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("case", ["equal", "isotropic", "singular", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_degenerate_covariances_have_finite_costs_and_gradients(case, full, dtype):
    mean, covariance = _gaussians(3, 4, full, 0)
    if case == "isotropic":
        covariance = torch.eye(4).expand(2, 3, 4, 4) if full else torch.ones(2, 3, 4)
    elif case == "singular":
        covariance = torch.ones(2, 3, 4, 4) if full else torch.tensor([1.0, 0, 0, 2]).expand(2, 3, 4)
    elif case == "zero":
        covariance = torch.zeros_like(covariance)
    mean, covariance = mean.to(dtype).requires_grad_(), covariance.to(dtype).clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cost = ot.bures_cost(mean, covariance, mean, covariance)
    assert cost.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    cost.sum().backward()
    for tensor in (cost, mean.grad, covariance.grad):
        assert tensor.isfinite().all()
    assert cost.diagonal(dim1=-2, dim2=-1).abs().max() < 1e-4


def test_shapes_that_do_not_fit_are_named():
    mean, variance = torch.rand(3, 4), torch.rand(3, 4)
    with pytest.raises(ValueError, match="covariance_y must be"):
        ot.bures_cost(mean, variance, mean, variance.diag_embed())
    with pytest.raises(ValueError, match="covariance_x must be"):
        ot.bures_cost(mean, torch.rand(3, 5), mean, variance)
    with pytest.raises(ValueError, match="same width"):
        ot.bures_cost(mean, variance, mean[:, :2], variance[:, :2])
