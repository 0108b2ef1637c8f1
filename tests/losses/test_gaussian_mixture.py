import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture

from hf_mmalign.losses.gaussian_mixture import (
    GaussianMixture,
    blend_mixtures,
    em_step,
    fit_mixture,
    initial_mixture,
    responsibilities,
)
from tests.losses.problems import SIZES, samples

FLOOR = 1e-4
K = 3


def a_start(modalities: int, width: int = 4, seed: int = 0) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    weights = torch.rand(modalities, K, **options) + 0.2
    means, variances = torch.randn(modalities, K, width, **options), torch.rand(modalities, K, width, **options) + 0.5
    return GaussianMixture(weights / weights.sum(1, keepdim=True), means, variances)


def by_sklearn(x: torch.Tensor, start: GaussianMixture, modality: int, iterations: int) -> SklearnMixture:
    weights, means, variances = (part[modality].numpy() for part in start)
    mixture = SklearnMixture(
        K,
        covariance_type="diag",
        tol=0,
        reg_covar=0,
        max_iter=iterations,
        init_params="random",
        weights_init=weights,
        means_init=means,
        precisions_init=1 / variances,
    )
    return mixture.fit(x.numpy())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("sizes", [(60, 60), (60, 41, 52), (60, 45, 51, 58)])
@pytest.mark.parametrize("iterations", [1, 5])
def test_em_is_that_of_sklearn_on_the_present_samples(sizes, iterations):
    x, present, alone = samples(sizes, batch=60)
    start = a_start(len(sizes))
    mixture = fit_mixture(x, present, start, iterations, variance_floor=1e-9)
    weights = responsibilities(x, mixture)
    for m, points in enumerate(alone):
        expected = by_sklearn(points, start, m, iterations)
        np.testing.assert_allclose(mixture.weights[m], expected.weights_, rtol=1e-9)
        np.testing.assert_allclose(mixture.means[m], expected.means_, rtol=1e-9)
        np.testing.assert_allclose(mixture.variances[m], expected.covariances_, rtol=1e-8)
        np.testing.assert_allclose(weights[m, present[m]], expected.predict_proba(points.numpy()), atol=1e-9)


def naive_step(x: torch.Tensor, mixture: GaussianMixture) -> np.ndarray:
    """Means after one EM step on one modality, `(K, d)`, sample by sample."""
    weights, means, variances = (part[0].numpy() for part in mixture)
    assigned = np.zeros((len(x), K))
    for n, point in enumerate(x.numpy()):
        for k in range(K):
            density = np.exp(-0.5 * (point - means[k]) ** 2 / variances[k]) / np.sqrt(2 * np.pi * variances[k])
            assigned[n, k] = weights[k] * density.prod()
        assigned[n] /= assigned[n].sum()
    return assigned.T @ x.numpy() / assigned.sum(0)[:, None]


def test_gradient_passes_the_last_step_or_all():
    x, present, alone = samples((8,), width=2, batch=8)
    start, direction = a_start(1, width=2), torch.randn_like(x)

    def slope(gradient):
        points = x.clone().requires_grad_()
        mixture = fit_mixture(points, present, start, 4, gradient=gradient)
        return (torch.autograd.grad(mixture.means.square().sum(), points)[0] * direction).sum().item()

    def value_of_last_step(step):
        return (naive_step(alone[0] + step * direction[0], before_last) ** 2).sum()

    def value_of_all_steps(step):
        return fit_mixture(x + step * direction, present, start, 4).means.square().sum().item()

    before_last = fit_mixture(x, present, start, 3)
    for gradient, value in (("last_step", value_of_last_step), ("all_steps", value_of_all_steps)):
        assert slope(gradient) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)
    assert abs(slope("last_step") - slope("all_steps")) > 1e-3 * abs(slope("all_steps"))


def test_gradcheck():
    x, present, _ = samples((4, 6), width=2)
    x.requires_grad_()
    start = a_start(2, width=2)
    assert torch.autograd.gradcheck(lambda x: tuple(fit_mixture(x, present, start, 3, 1e-6, "all_steps")), x)
    assert torch.autograd.gradcheck(lambda x: responsibilities(x, start), x)


def test_no_variance_falls_below_the_floor():
    x, present = torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    mixture = fit_mixture(x, present, initial_mixture(x, present, K, FLOOR), 3, FLOOR)
    torch.testing.assert_close(mixture.variances, torch.full((2, K, 3), FLOOR))
    torch.testing.assert_close(mixture.means, torch.ones(2, K, 3))
    torch.testing.assert_close(mixture.weights, torch.full((2, K), 1 / K))


@pytest.mark.parametrize("sizes", SIZES)
def test_start_is_at_distinct_present_samples_with_their_variance(sizes):
    x, present, alone = samples(sizes)
    start = initial_mixture(x, present, K, FLOOR)
    for m, points in enumerate(alone):
        chosen = (start.means[m].unsqueeze(1) == points).all(-1)
        assert (chosen.sum(1) == 1).all()
        assert (chosen.sum(0) <= 1).all()
        np.testing.assert_allclose(start.variances[m], np.tile(points.numpy().var(0), (K, 1)))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("gradient", ["last_step", "all_steps"])
@pytest.mark.parametrize("sizes", [(1, 2), (0, 6), (2, 0, 1)])
def test_fewer_samples_than_components(sizes, gradient, scale):
    x, present, _ = samples(sizes, dtype=torch.float32)
    x = (scale * x.masked_fill(~present.unsqueeze(-1), 0)).requires_grad_()
    mixture = fit_mixture(x, present, initial_mixture(x, present, K, FLOOR), 5, FLOOR, gradient)
    assert all(torch.isfinite(part).all() for part in mixture)
    torch.testing.assert_close(mixture.weights.sum(1), present.any(1).float())
    total = responsibilities(x, mixture).square().sum() + sum(part.sum() for part in mixture)
    assert torch.isfinite(torch.autograd.grad(total, x)[0]).all()


def test_a_component_without_samples_stays_where_it_was():
    x, present = torch.randn(1, 6, 2), torch.ones(1, 6, dtype=torch.bool)
    start = GaussianMixture(torch.full((1, 2), 0.5), torch.tensor([[[0.0, 0.0], [1e4, 1e4]]]), torch.ones(1, 2, 2))
    mixture = em_step(x, present, start, FLOOR)
    assert mixture.weights.tolist() == [[1, 0]]
    assert torch.equal(mixture.means[0, 1], start.means[0, 1])
    assert torch.equal(mixture.variances[0, 1], start.variances[0, 1])


def test_blend_has_the_moments_of_both():
    running, batch = a_start(2, seed=1), a_start(2, seed=2)
    blended = blend_mixtures(running, batch, 0.9)

    def raw_moments(mixture):
        weights = mixture.weights.unsqueeze(-1)
        return weights, weights * mixture.means, weights * (mixture.variances + mixture.means**2)

    for one, old, new in zip(*map(raw_moments, (blended, running, batch)), strict=True):
        torch.testing.assert_close(one, 0.9 * old + 0.1 * new)


def test_an_unknown_gradient_is_refused():
    x, present, _ = samples((6, 6))
    with pytest.raises(ValueError, match="gradient is"):
        fit_mixture(x, present, a_start(2), 2, gradient="none")
