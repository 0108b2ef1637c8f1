import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign.losses.information_bottleneck import (
    RATIO_BOUNDS,
    VARIANTS,
    asymmetric_bottleneck_loss,
    compression_factors,
    contribution_alignment,
    contribution_ratios,
    gaussian_mutual_information,
)
from tests.losses.problems import assert_finite_with_gradient


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("correlations", [(0.0,), (0.3,), (0.9,), (0.2, 0.5, 0.8)])
def test_the_closed_form_of_gaussians(correlations):
    """I = −½ Σ log(1 − ρ²), through any invertible mixing of either side."""
    rho = torch.tensor(correlations, dtype=torch.float64)
    x, noise = normal(40_000, len(rho)), normal(40_000, len(rho), seed=1)
    y = rho * x + (1 - rho**2).sqrt() * noise
    truth = -0.5 * torch.log(1 - rho**2).sum().item()
    mix_x, mix_y = normal(len(rho), len(rho), seed=2), normal(len(rho), len(rho), seed=3)
    assert gaussian_mutual_information(x, y, ridge=1e-9).item() == pytest.approx(truth, abs=0.01)
    assert gaussian_mutual_information(x @ mix_x, y @ mix_y, ridge=1e-9).item() == pytest.approx(truth, abs=0.01)
    assert gaussian_mutual_information(x, y).item() == pytest.approx(truth, abs=0.02)


def test_equation_12_of_the_sample_covariances():
    x, y = normal(50, 3), normal(50, 4, seed=1)
    y[:, :2] += x[:, 1:]
    joint = np.cov(torch.cat([x, y], dim=1).numpy().T)
    volume = np.linalg.det
    truth = 0.5 * math.log(volume(joint[:3, :3]) * volume(joint[3:, 3:]) / volume(joint))
    assert gaussian_mutual_information(x, y, ridge=1e-12).item() == pytest.approx(truth, rel=1e-6)


def test_wide_independent_features_share_little_in_a_small_batch():
    x, y = normal(64, 512), normal(64, 300, seed=1)
    assert gaussian_mutual_information(x, y, max_components=1000) > 100
    assert gaussian_mutual_information(x, y) < 5


def test_wide_features_are_told_by_their_principal_components():
    hidden = normal(200, 4)
    x = hidden @ normal(4, 64, seed=1) + 1e-4 * normal(200, 64, seed=2)
    y = hidden + normal(200, 4, seed=3)
    expected = gaussian_mutual_information(hidden, y)
    torch.testing.assert_close(gaussian_mutual_information(x, y, max_components=4), expected, rtol=1e-2, atol=0)


def test_the_gradient_passes_the_projection():
    x, y = normal(12, 6).requires_grad_(), normal(12, 2, seed=1)
    (through,) = torch.autograd.grad(gaussian_mutual_information(x, y, max_components=2), x)
    centred = x.detach() - x.detach().mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT
    (direct,) = torch.autograd.grad(gaussian_mutual_information(x @ directions, y), x)
    torch.testing.assert_close(through, direct)
    assert through.abs().max() > 0


def test_gradcheck():
    x, y = normal(7, 2).requires_grad_(), normal(7, 3, seed=1).requires_grad_()
    present = torch.tensor([True] * 6 + [False])
    assert torch.autograd.gradcheck(lambda x, y: gaussian_mutual_information(x, y, present), (x, y))
    betas, ratios = torch.tensor([0.3, 0.5]).double(), torch.tensor([1.5, 0.7]).double()
    fused = normal(7, 2, seed=2).requires_grad_()
    for variant in VARIANTS:
        loss = lambda x, y, f, v=variant: asymmetric_bottleneck_loss([x, y], [y, x], f, betas, ratios, variant=v)  # noqa: E731
        assert torch.autograd.gradcheck(loss, (x, y, fused))


def test_absent_samples_are_never_looked_at():
    x, y = normal(9, 3), normal(9, 2, seed=1)
    present = torch.arange(9) % 3 != 0
    alone = gaussian_mutual_information(x[present], y[present])
    x[~present], y[~present] = torch.nan, torch.inf
    x.requires_grad_()
    value = gaussian_mutual_information(x, y, present)
    torch.testing.assert_close(value, alone)
    assert_finite_with_gradient(value, x)
    for most in (1, 0):
        few = torch.arange(9) < most
        value = gaussian_mutual_information(x, y, few & present)
        assert value == 0
        assert torch.autograd.grad(value, x)[0].abs().max() == 0


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(2, 70),
    widths=st.tuples(st.integers(1, 20), st.integers(1, 70)),
    scale=st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e4, 1e18]),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    variant=st.sampled_from(VARIANTS),
    copies=st.booleans(),
)
def test_no_batch_size_and_scale_gives_nan(batch, widths, scale, offset, dtype, variant, copies):
    z = (scale * normal(batch, widths[0]) + offset).to(dtype).requires_grad_()
    x = (scale * normal(batch, widths[1], seed=1) + offset).to(dtype).requires_grad_()
    fused = (x.detach()[:1].expand(batch, -1) if copies else x.detach() * 3).clone().requires_grad_()
    information = gaussian_mutual_information(z, x)
    assert information >= -1e-6
    assert_finite_with_gradient(information, z, x)
    # Widths of 32 at most, whose correlations with the ridge lie between 0.001 and 32.001.
    assert information <= 16 * math.log(33e3)
    betas, ratios = compression_factors(torch.tensor([0.9, 0.1])), torch.tensor(RATIO_BOUNDS)
    loss = asymmetric_bottleneck_loss([z, x], [x, z], fused, betas, ratios, variant=variant)
    assert_finite_with_gradient(loss, z, x, fused)


@pytest.mark.parametrize("scale", [1e-2, 1e6])
def test_the_scale_of_features_plays_no_part(scale):
    x, y = normal(30, 5), normal(30, 40, seed=1)
    expected = gaussian_mutual_information(x, y)
    torch.testing.assert_close(gaussian_mutual_information(scale * x + 3, y * scale), expected, rtol=1e-3, atol=0)


def test_overflowed_activations_end_as_a_loss_that_is_not_finite():
    x = normal(8, 20)
    x[0, 0] = torch.inf
    assert not torch.isfinite(gaussian_mutual_information(x, normal(8, 2, seed=1)))


def test_equation_13_and_its_variants():
    z, x = [normal(40, 3), normal(40, 2, seed=1)], [normal(40, 5, seed=2), normal(40, 4, seed=3)]
    x[0][:, 0] += z[0][:, 0]
    fused = torch.cat([z[0] + normal(40, 3, seed=4), z[1]], dim=1)
    betas, ratios = torch.tensor([0.2, 0.8]).double(), torch.tensor([0.5, 2.0]).double()
    relevance = torch.stack([gaussian_mutual_information(part, fused) for part in z])
    kept = torch.stack([gaussian_mutual_information(part, whole) for part, whole in zip(z, x, strict=True)])
    inside = {
        "mi": -kept,
        "mx": relevance,
        "mx_mi": relevance - kept,
        "inverse_beta": relevance / betas - kept,
        "beta": betas * relevance - kept,
    }
    assert set(inside) == set(VARIANTS)
    for variant, u in inside.items():
        expected = (-u.sigmoid().log() / ratios).sum()
        found = asymmetric_bottleneck_loss(z, x, fused, betas, ratios, variant=variant)
        torch.testing.assert_close(found, expected)
    present = torch.stack([torch.arange(40) < 1, torch.arange(40) < 40])
    found = asymmetric_bottleneck_loss(z, x, fused, betas, ratios, present)
    torch.testing.assert_close(found, -inside["beta"][1].sigmoid().log() / 2)


def test_a_step_down_the_loss_keeps_what_the_fusion_has_and_forgets_the_rest():
    """Features of a signal and a nuisance, fused to the signal alone: the bottleneck turns from one to the other."""
    signal, nuisance = normal(256, 1), normal(256, 1, seed=1)
    x = torch.cat([signal, nuisance], dim=1)
    direction = torch.tensor([[0.5], [0.5]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    optimizer = torch.optim.SGD([direction], lr=0.05)
    for _ in range(100):
        z = x @ direction + 0.5 * normal(256, 1, seed=2)
        loss = asymmetric_bottleneck_loss([z], [x], signal, one, one)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert direction[1].abs() < 0.1 * direction[0].abs()


def test_factors_ratios_and_alignment():
    a = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(compression_factors(a), torch.tensor([1, math.exp(-1), math.exp(-2)]).double())
    torch.testing.assert_close(compression_factors(a, 0.5)[2], torch.tensor(math.exp(-0.5)).double())
    phi = torch.tensor([0.4, 0.4, 0.0, 0.3, -1.0, 1e-6], requires_grad=True)
    compressed = torch.tensor([0.2, 0.6, 0.0, -0.1, -2.0, 5.0])
    ratios = contribution_ratios(phi, compressed)
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1.5, 1.0, 0.1, 1.0, 10.0]))
    assert not ratios.requires_grad
    alignment = contribution_alignment(phi[:2], compressed[:2])
    torch.testing.assert_close(alignment, torch.tensor(0.08))
    assert alignment.requires_grad


def test_what_is_out_of_range_is_refused():
    x = normal(4, 2)
    with pytest.raises(ValueError, match="ridge is positive"):
        gaussian_mutual_information(x, x, ridge=0.0)
    with pytest.raises(ValueError, match=r"one B are expected, not \(4, 2\) and \(3, 2\)"):
        gaussian_mutual_information(x, x[:3])
    one = torch.ones(1)
    with pytest.raises(ValueError, match="variant is one of"):
        asymmetric_bottleneck_loss([x], [x], x, one, one, variant="max")
    with pytest.raises(ValueError, match="1 compressed, 2 features"):
        asymmetric_bottleneck_loss([x], [x, x], x, one, one)


def test_autocast_does_not_reach_it():
    x, y = normal(20, 3, dtype=torch.bfloat16), normal(20, 3, seed=1, dtype=torch.bfloat16)
    expected = gaussian_mutual_information(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = gaussian_mutual_information(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
