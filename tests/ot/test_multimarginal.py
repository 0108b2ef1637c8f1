import numpy as np
import ot as pot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from hf_mmalign import ot


def _problem(sizes, seed=0, scale=1.0, dtype=torch.float32, batch=()):
    """A cost that is a sum over pairs, as DecAlign's is, and uneven marginals."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.zeros(*batch, *sizes, dtype=dtype)
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            shape = [*batch, *(size if k in (i, j) else 1 for k, size in enumerate(sizes))]
            cost = cost + torch.rand(shape, generator=generator, dtype=dtype)
    marginals = [torch.rand(*batch, size, generator=generator, dtype=dtype) ** 2 + 1e-3 for size in sizes]
    return scale * cost, marginals


def _marginal_error(plan, marginals):
    first = plan.dim() - len(marginals)
    errors = []
    for k, marginal in enumerate(marginals):
        held = plan.sum([first + i for i in range(len(marginals)) if i != k])
        errors.append((held - marginal / marginal.sum(-1, keepdim=True)).abs().sum(-1).max().item())
    return max(errors)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.02, 0.1, 1.0]),
    st.integers(0, 99),
)
def test_mass_and_marginals_at_any_scale(sizes, scale, epsilon, seed):
    cost, marginals = _problem(sizes, seed, scale)
    result = ot.multi_marginal(cost, marginals, epsilon, iterations=100)
    assert abs(result.plan.sum().item() - 1) < 1e-5
    assert _marginal_error(result.plan, marginals) < 1e-5
    assert (result.plan >= 0).all()
    torch.testing.assert_close(result.value, (result.plan * cost).sum())


@pytest.mark.parametrize("sizes", [(16, 16), (16, 16, 16), (16, 16, 16, 16), (7, 7, 7, 7, 7)])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_the_plan_does_not_depend_on_the_costs_scale(sizes, scale):
    cost, marginals = _problem(sizes)
    expected = ot.multi_marginal(cost, marginals, iterations=60).plan
    plan = ot.multi_marginal(scale * cost, marginals, iterations=60).plan
    assert (plan - expected).abs().sum() < 1e-4
    assert _marginal_error(plan, marginals) < 1e-5


@pytest.mark.slow
def test_five_marginals_of_sixteen():
    cost, marginals = _problem((16,) * 5, scale=100.0)
    result = ot.multi_marginal(cost, marginals, iterations=10)
    assert abs(result.plan.sum().item() - 1) < 1e-4
    assert _marginal_error(result.plan, marginals) < 1e-4


def test_two_marginals_are_pots_sinkhorn():
    cost, marginals = _problem((6, 9), dtype=torch.float64)
    a, b = ((m / m.sum()).numpy() for m in marginals)
    expected = pot.sinkhorn(a, b, cost.numpy(), 0.1 * cost.mean().item(), method="sinkhorn_log", stopThr=1e-12)
    plan = ot.multi_marginal(cost, marginals, 0.1, tolerance=1e-12).plan
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-9)


def test_three_marginals_against_the_optimality_conditions():
    """log(T / ⊗ marginals) + C / ε must be a sum of one function per axis, that is, have no interaction."""
    cost, marginals = _problem((4, 5, 3), dtype=torch.float64)
    plan = ot.multi_marginal(cost, marginals, 0.3, tolerance=1e-13).plan
    interaction = plan.log() + cost / (0.3 * cost.mean())
    for axis in range(3):
        interaction = interaction - interaction.mean(axis, keepdim=True)
    total = plan.log() + cost / (0.3 * cost.mean())
    main_effects = sum(total.mean([k for k in range(3) if k != axis], keepdim=True) for axis in range(3))
    residual = total - main_effects + 2 * total.mean()
    assert residual.abs().max() < 1e-9


def test_small_epsilon_approaches_the_linear_program():
    cost, marginals = _problem((3, 4, 3), dtype=torch.float64)
    constraints, targets = [], []
    for axis, marginal in enumerate(marginals):
        for k, weight in enumerate(marginal / marginal.sum()):
            indicator = torch.zeros_like(cost)
            indicator.select(axis, k).fill_(1)
            constraints.append(indicator.flatten().numpy())
            targets.append(weight.item())
    exact = linprog(cost.flatten().numpy(), A_eq=np.array(constraints), b_eq=np.array(targets)).fun
    value = ot.multi_marginal(cost, marginals, 0.005, iterations=5000).value.item()
    assert exact - 1e-9 <= value <= 1.01 * exact


def test_pairwise_marginals():
    cost, marginals = _problem((3, 4, 5), batch=(2,))
    result = ot.multi_marginal(cost, marginals)
    torch.testing.assert_close(result.pairwise(0, 2), result.plan.sum(2))
    torch.testing.assert_close(result.pairwise(2, 0), result.plan.sum(2).mT)
    normalised = marginals[1] / marginals[1].sum(-1, keepdim=True)
    torch.testing.assert_close(result.pairwise(1, 0).sum(-1), normalised)
    with pytest.raises(ValueError, match="two different marginals below 3"):
        result.pairwise(1, 3)
    with pytest.raises(ValueError, match="two different marginals"):
        result.pairwise(1, 1)


def test_absent_entries_and_empty_marginals():
    cost, marginals = _problem((3, 4, 5), batch=(2,))
    marginals[0][0, 1] = 0
    marginals[2][1] = 0
    cost[0, 1] = float("nan")
    cost.requires_grad_()
    result = ot.multi_marginal(cost, marginals)
    assert (result.plan[0, 1] == 0).all()
    assert abs(result.plan[0].sum().item() - 1) < 1e-5
    assert result.value[1] == 0
    assert (result.plan[1] == 0).all()
    result.value.sum().backward()
    assert cost.grad.isfinite().all()


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_equal_costs_give_the_product(constant):
    _, marginals = _problem((3, 4, 5))
    plan = ot.multi_marginal(torch.full((3, 4, 5), constant), marginals).plan
    a, b, c = (m / m.sum() for m in marginals)
    torch.testing.assert_close(plan, torch.einsum("i,j,k->ijk", a, b, c))


def test_envelope_gradient():
    """With ε fixed, the regularised objective's derivative is the plan; steps that keep the mean cost keep ε."""
    cost, marginals = _problem((3, 4, 3), dtype=torch.float64)
    outer = torch.einsum("i,j,k->ijk", *(m / m.sum() for m in marginals))

    def objective(c):
        plan = ot.multi_marginal(c, marginals, 0.2, tolerance=1e-13).plan
        return (plan * c).sum() + 0.2 * c.mean() * (plan * (plan / outer).log()).sum()

    step = torch.rand_like(cost)
    step -= step.mean()
    slope = (objective(cost + 1e-5 * step) - objective(cost - 1e-5 * step)) / 2e-5
    result = ot.multi_marginal(cost.requires_grad_(), marginals, 0.2, tolerance=1e-13)
    (gradient,) = torch.autograd.grad(result.value, cost)
    torch.testing.assert_close(gradient, result.plan)
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=1e-6, atol=1e-9)


def test_unrolled_gradient():
    cost, marginals = _problem((3, 2, 4), dtype=torch.float64)

    def unrolled(c):
        result = ot.multi_marginal(c, marginals, 0.3, iterations=30, tolerance=0.0, unroll=True)
        return result.plan, result.value

    assert torch.autograd.gradcheck(unrolled, cost.requires_grad_())


def test_half_precision_and_autocast():
    cost, marginals = _problem((4, 5, 3))
    with torch.autocast("cpu", torch.bfloat16):
        result = ot.multi_marginal(cost.bfloat16(), marginals)
    assert result.plan.dtype == torch.float32
    assert _marginal_error(result.plan, marginals) < 1e-5


def test_absolute_epsilon_is_that_of_pots_sinkhorn():
    cost, marginals = _problem((6, 9), dtype=torch.float64)
    a, b = ((m / m.sum()).numpy() for m in marginals)
    expected = pot.sinkhorn(a, b, cost.numpy(), 0.2, method="sinkhorn_log", stopThr=1e-12)
    plan = ot.multi_marginal(cost, marginals, 0.2, epsilon_scale="absolute", tolerance=1e-12).plan
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-9)


def test_compiled_it_is_one_operator_of_the_graph():
    torch._dynamo.reset()
    cost, marginals = _problem((3, 4, 5), batch=(2,))
    marginals[2][1] = 0

    def solve(cost):
        return ot.multi_marginal(cost.square(), marginals)

    expected, result = solve(cost.requires_grad_()), torch.compile(solve, backend="aot_eager", fullgraph=True)(cost)
    torch.testing.assert_close(result.plan, expected.plan)
    torch.testing.assert_close(result.value, expected.value)
    torch.testing.assert_close(*(torch.autograd.grad(r.value.sum(), cost)[0] for r in (result, expected)))
    torch.library.opcheck(torch.ops.hf_mmalign.multi_marginal, (cost.detach(), marginals, 0.1, "mean_cost", 20, 1e-5))


@pytest.mark.parametrize(
    ("cost", "marginals", "epsilon", "message"),
    [
        (torch.ones(3), [torch.ones(3)], 0.1, "at least 2 marginals"),
        (torch.ones(3, 4), [torch.ones(3), torch.ones(3)], 0.1, "marginal 1 must have the shape"),
        (torch.ones(3, 4), [torch.ones(3), torch.ones(4)], 0.0, "epsilon must be positive"),
    ],
)
def test_bad_input_is_named(cost, marginals, epsilon, message):
    with pytest.raises(ValueError, match=message):
        ot.multi_marginal(cost, marginals, epsilon)
