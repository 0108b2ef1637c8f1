import pytest
import torch

from hf_mmalign import ot

from .problems import ragged_masks, tokens


def _cost(n: int = 5, m: int = 7) -> torch.Tensor:
    return ot.cosine_cost(*(x.double() for x in tokens("random", 2, n, m)))


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("exact", {}),
        ("shortlist", {"tolerance": 0.0}),
        ("hybrid", {"tolerance": 0.0}),
        ("interior_point", {"tolerance": 1e-12, "iterations": 60}),
    ],
)
def test_gradcheck_of_the_value(solver, options):
    a, b = ragged_masks(2, 5, 7)
    cost = _cost().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: ot.solve(c, a, b, solver=solver, **options).value, cost)


def test_gradcheck_through_the_tokens():
    x, y = (v.double()[..., :4].contiguous().requires_grad_() for v in tokens("random", 2, 4, 6))
    assert torch.autograd.gradcheck(lambda x, y: ot.solve(ot.cosine_cost(x, y), solver="exact").value, (x, y))


@pytest.mark.parametrize("solver", ["hybrid", "shortlist", "interior_point", "exact", "ipot"])
def test_the_gradient_is_the_plan_and_the_plan_is_a_constant(solver):
    cost = _cost(30, 40).float().requires_grad_()
    result = ot.solve(cost, solver=solver)
    assert not result.plan.requires_grad
    (gradient,) = torch.autograd.grad(result.value.sum(), cost)
    torch.testing.assert_close(gradient, result.plan, rtol=1e-6, atol=1e-9)


def test_solvers_agree_on_the_gradient():
    """Where the optimum is unique and isolated, a plan near in value is near in every entry."""
    cost = ot.cosine_cost(*tokens("near", 3, 24, 24)).requires_grad_()
    gradients = [
        torch.autograd.grad(ot.solve(cost, solver=solver).value.sum(), cost)[0]
        for solver in ("exact", "hybrid", "shortlist", "interior_point")
    ]
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().sum((1, 2)).max() < 1e-3


def test_unrolled_ipot():
    a, b = ragged_masks(2, 4, 5)
    cost = _cost(4, 5).requires_grad_()

    def unrolled(c):
        result = ot.solve(c, a, b, solver="ipot", iterations=6, unroll=True)
        return result.plan, result.value

    assert torch.autograd.gradcheck(unrolled, cost)


def test_unrolled_ipot_with_an_empty_problem_has_finite_gradients():
    cost = _cost().requires_grad_()
    a = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 0, 1, 0]])
    result = ot.solve(cost, a, solver="ipot", unroll=True)
    (result.value.sum() + result.plan.square().sum()).backward()
    assert cost.grad.isfinite().all()
    assert (cost.grad[0] == 0).all()


def test_no_graph_without_gradients():
    cost = _cost().requires_grad_()
    with torch.no_grad():
        assert not ot.solve(cost).value.requires_grad
