import itertools

import numpy as np
import ot as pot
import pytest
import torch
from scipy.linalg import sqrtm

from hf_mmalign.losses.gaussian_mixture import GaussianMixture, responsibilities
from hf_mmalign.losses.prototype_transport import (
    joint_cost,
    matching_from_plan,
    prototype_costs,
    prototype_loss,
    transport_loss,
)
from tests.losses.problems import SIZES, assert_finite_with_gradient, samples

K, WIDTH = 3, 4


def a_mixture(modalities: int, dtype=torch.float64, seed: int = 0) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    weights, means, variances = (
        torch.rand(modalities, K, *shape, generator=generator, dtype=torch.float64).to(dtype) + 0.1
        for shape in ((), (WIDTH,), (WIDTH,))
    )
    return GaussianMixture(weights / weights.sum(1, keepdim=True), 3 * means, variances)


def equation_6(mixture: GaussianMixture, i: int, k: int, j: int, n: int) -> float:
    means, variances = mixture.means.numpy(), mixture.variances.numpy()
    first, second = np.diag(variances[i, k]), np.diag(variances[j, n])
    root = sqrtm(first)
    trace = np.trace(first + second - 2 * sqrtm(root @ second @ root)).real
    return np.sum((means[i, k] - means[j, n]) ** 2) + trace


def equation_5(costs: torch.Tensor, modalities: list[int]) -> np.ndarray:
    """Joint cost between the modalities given, entry by entry."""
    joint = np.zeros((K,) * len(modalities))
    for index in itertools.product(range(K), repeat=len(modalities)):
        for a, b in itertools.combinations(range(len(modalities)), 2):
            joint[index] += costs[modalities[a], index[a], modalities[b], index[b]].item()
    return joint


def kernel_sinkhorn(cost: np.ndarray, marginals: list[np.ndarray], epsilon: float, rounds: int = 3000) -> np.ndarray:
    """Eqs. 7–8 in float64 by scaling exp(−C / ε); right where that does not underflow."""
    plan = np.exp(-cost / epsilon)
    for _ in range(rounds):
        for axis, marginal in enumerate(marginals):
            others = tuple(k for k in range(plan.ndim) if k != axis)
            plan = plan * (marginal / plan.sum(others)).reshape([-1 if k == axis else 1 for k in range(plan.ndim)])
    return plan


@pytest.mark.parametrize("modalities", [2, 3])
def test_pair_costs_are_equation_6(modalities):
    mixture = a_mixture(modalities)
    costs = prototype_costs(mixture, "sum")
    for i, k, j, n in itertools.product(range(modalities), range(K), repeat=2):
        assert costs[i, k, j, n].item() == pytest.approx(equation_6(mixture, i, k, j, n), abs=1e-7)
    torch.testing.assert_close(prototype_costs(mixture), costs / WIDTH)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_joint_cost_is_equation_5(modalities):
    costs = prototype_costs(a_mixture(modalities))
    np.testing.assert_allclose(joint_cost(costs), equation_5(costs, list(range(modalities))))


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("scale", ["mean_cost", "absolute"])
@pytest.mark.parametrize("modalities", [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3], [1, 3]])
def test_transport_between_those_that_take_part(modalities, scale, entropy):
    total = max(modalities) + 1
    mixture = a_mixture(total)
    costs, marginals = prototype_costs(mixture), mixture.weights.clone()
    counted = torch.tensor([m in modalities for m in range(total)])
    marginals[~counted] = 0  # as for a modality that no sample has
    cost = equation_5(costs, modalities)
    epsilon = 0.3 * cost.mean() if scale == "mean_cost" else 0.3
    expected = kernel_sinkhorn(cost, [mixture.weights[m].numpy() for m in modalities], epsilon)
    value, plan = transport_loss(costs, marginals, counted, 0.3, scale, entropy, iterations=2000)
    absent = tuple(m for m in range(total) if m not in modalities)
    np.testing.assert_allclose(plan.sum(absent) if absent else plan, expected, atol=1e-5)
    expected_value = (expected * cost).sum() + entropy * epsilon * (expected * (np.log(expected) - 1)).sum()
    assert value.item() == pytest.approx(expected_value, rel=1e-4)


def test_two_modalities_are_pots_sinkhorn():
    mixture = a_mixture(2)
    costs = prototype_costs(mixture, "sum")
    cost, marginals = costs[0, :, 1].numpy(), [row.numpy() for row in mixture.weights]
    expected = pot.sinkhorn(*marginals, cost, 0.1 * cost.mean(), method="sinkhorn_log", stopThr=1e-12)
    value, plan = transport_loss(costs, mixture.weights, torch.ones(2, dtype=torch.bool), iterations=2000)
    np.testing.assert_allclose(plan, expected, atol=1e-5)
    assert value.item() == pytest.approx((expected * cost).sum(), rel=1e-4)


def test_transport_of_fewer_than_two_modalities_costs_nothing():
    for counted in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        costs = prototype_costs(a_mixture(3)).requires_grad_()
        for scale in ("mean_cost", "absolute"):
            value, plan = transport_loss(costs, a_mixture(3).weights, counted, epsilon_scale=scale, entropy=True)
            assert value == 0
            assert plan.sum().item() == pytest.approx(1)
            assert_finite_with_gradient(value, costs)


def test_gradient_is_the_plan():
    """Envelope theorem: the slope of the regularised optimum, ε fixed, is that of ⟨T*, C⟩ with T* held."""
    mixture = a_mixture(3)
    counted, costs = torch.ones(3, dtype=torch.bool), prototype_costs(mixture).requires_grad_()
    value, _ = transport_loss(costs, mixture.weights, counted, 0.5, "absolute", iterations=2000)
    (gradient,) = torch.autograd.grad(value, costs)
    direction = torch.rand_like(costs)

    def optimum(step):
        moved = costs.detach() + step * direction
        return transport_loss(moved, mixture.weights, counted, 0.5, "absolute", entropy=True, iterations=2000)[0]

    slope = ((optimum(1e-2) - optimum(-1e-2)) / 2e-2).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_matching_is_the_plans_conditional(modalities):
    mixture = a_mixture(modalities)
    counted = torch.ones(modalities, dtype=torch.bool)
    plan = transport_loss(prototype_costs(mixture), mixture.weights, counted, iterations=500)[1]
    matching = matching_from_plan(plan)
    for i, j in itertools.permutations(range(modalities), 2):
        joint = np.zeros((K, K))
        for index in itertools.product(range(K), repeat=modalities):
            joint[index[i], index[j]] += plan[index].item()
        np.testing.assert_allclose(matching[i, j], joint / joint.sum(1, keepdims=True), rtol=1e-9)
        np.testing.assert_allclose(joint.sum(1), mixture.weights[i], atol=1e-12)


def test_transport_finds_components_that_are_numbered_differently():
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    order = [2, 0, 1]
    mixture = GaussianMixture(torch.full((2, 3), 1 / 3), torch.stack([means, means[order]]), torch.ones(2, 3, 2))
    both = torch.ones(2, dtype=torch.bool)
    matching = matching_from_plan(transport_loss(prototype_costs(mixture), mixture.weights, both)[1])
    assert matching[1, 0].argmax(1).tolist() == order
    x, present = mixture.means, torch.ones(2, 3, dtype=torch.bool)
    weights = responsibilities(x, mixture)
    matched = prototype_loss(x, present, weights, mixture.means, matching)
    by_index = prototype_loss(x, present, weights, mixture.means)
    assert matched < 0.05 * by_index


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("sizes", [*SIZES, (6, 0, 5)])
def test_local_term_of_equation_9_by_loops(sizes, matched):
    x, present, alone = samples(sizes, WIDTH)
    mixture = a_mixture(len(sizes), seed=3)
    matching = torch.rand(len(sizes), len(sizes), K, K, dtype=torch.float64)
    matching /= matching.sum(-1, keepdim=True)
    weights = responsibilities(x, mixture)
    pairs = []
    for i, j in itertools.permutations([m for m, size in enumerate(sizes) if size], 2):
        total = 0.0
        for point, weight in zip(alone[i], weights[i, present[i]], strict=True):
            for k, n in itertools.product(range(K), repeat=2):
                share = matching[i, j, k, n] if matched else float(k == n)
                total += weight[k] * share * (point - mixture.means[j, n]).square().sum()
        pairs.append(total / len(alone[i]))
    given = matching if matched else None
    loss = prototype_loss(x, present, weights, mixture.means, given, "sum")
    torch.testing.assert_close(loss, sum(pairs) / len(pairs))
    torch.testing.assert_close(prototype_loss(x, present, weights, mixture.means, given), loss / WIDTH)


def test_local_terms_gradcheck():
    x, present, _ = samples((6, 4), WIDTH)
    means = a_mixture(2).means.requires_grad_()
    weights = torch.rand(2, 6, K, dtype=torch.float64, requires_grad=True)
    x = x.masked_fill(~present.unsqueeze(-1), 0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *inputs: prototype_loss(inputs[0], present, *inputs[1:]), (x, weights, means)
    )


def test_without_a_pair_the_local_term_is_zero():
    x, present, _ = samples((6, 0), WIDTH)
    mixture = a_mixture(2)
    x.requires_grad_()
    loss = prototype_loss(x, present, responsibilities(x, mixture), mixture.means)
    assert loss == 0
    assert_finite_with_gradient(loss, x)
