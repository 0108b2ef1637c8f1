import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch.utils.data import DataLoader, Dataset

from hf_mmalign import ot

from .problems import REGIMES, exact_values, marginal_error, ragged_masks, tokens

ACCURATE = ("hybrid", "shortlist", "interior_point", "exact")
SOLVERS = (*ACCURATE, "ipot")
SIZES = [(4, 1, 1), (4, 1, 9), (4, 9, 1), (16, 12, 17), (6, 40, 145), (6, 145, 40), (4, 64, 64), (1, 300, 512)]


@pytest.mark.parametrize("solver", ACCURATE)
@pytest.mark.parametrize("size", [*SIZES, (1, 512, 512)], ids=str)
@pytest.mark.parametrize("regime", REGIMES)
def test_accuracy_in_every_regime(regime, size, solver):
    cost = ot.cosine_cost(*tokens(regime, *size))
    result = ot.solve(cost, solver=solver)
    error = result.value.double() / exact_values(cost) - 1
    # The project promises 0.5 % and 1e-3. Proven are 0.3 %; the interior point's limit are the near copies' values of
    # 0.005, where fp32 tells.
    assert error.abs().max() < {"exact": 1e-6, "interior_point": 4e-3}.get(solver, 3.01e-3)
    assert marginal_error(result.plan) < 1e-5
    assert (result.plan >= 0).all()


@pytest.mark.parametrize("solver", ACCURATE)
@pytest.mark.parametrize("regime", REGIMES)
def test_accuracy_with_ragged_masks(regime, solver):
    cost = ot.cosine_cost(*tokens(regime, 24, 40, 145, seed=3))
    a, b = ragged_masks(24, 40, 145)
    result = ot.solve(cost, a, b, solver=solver)
    torch.testing.assert_close(result.value.double(), exact_values(cost, a, b), rtol=4e-3, atol=2e-6)
    assert marginal_error(result.plan, a, b) < 1e-5
    assert (result.plan[~(a.unsqueeze(-1) & b.unsqueeze(-2))] == 0).all()


@st.composite
def weighted_problems(draw):
    n, m = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    cost = torch.rand(3, n, m, generator=generator)
    kind = draw(st.sampled_from(["uniform", "integer ties", "low rank", "cone"]))
    if kind == "integer ties":
        cost = (3 * cost).round()
    elif kind == "low rank":
        cost = (cost[..., :1] - cost[..., :1, :]).abs()
    elif kind == "cone":
        cost = 1 + 1e-2 * cost
    weights = []
    for size in (n, m):
        weight = torch.rand(3, size, generator=generator) ** draw(st.sampled_from([0, 1, 4]))
        weights.append(weight * (torch.rand(3, size, generator=generator) < draw(st.sampled_from([0.3, 0.8, 1.0]))))
    cost = (cost - draw(st.sampled_from([0, 0, 2]))) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    return cost, *weights


@settings(deadline=None, max_examples=60)
@given(weighted_problems(), st.sampled_from(ACCURATE))
def test_any_weights_masks_ties_and_scales(problem, solver):
    cost, a, b = problem
    result = ot.solve(cost, a, b, solver=solver, certificate=True)
    exact = exact_values(cost, a, b)
    rounding = 2e-5 * cost.abs().max().item()
    torch.testing.assert_close(result.value.double(), exact, rtol=3.1e-3, atol=rounding)
    assert marginal_error(result.plan, a, b) < 1e-5
    assert (result.lower_bound <= exact + 1e-6 * cost.abs().max()).all()
    torch.testing.assert_close(result.lower_bound.double(), exact, rtol=3.1e-3, atol=rounding)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=4),
    st.sampled_from([(6, 7), (18, 20)]),
    st.sampled_from(REGIMES),
    st.sampled_from(ACCURATE),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_costs_of_any_scale_each_problem_its_own(exponents, size, regime, solver, dtype):
    scales = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
    cost = ot.cosine_cost(*tokens(regime, len(scales), *size)).double()
    scaled = (cost * scales.view(-1, 1, 1)).to(dtype).requires_grad_()
    result = ot.solve(scaled, solver=solver, certificate=True)
    exact = exact_values(cost)
    torch.testing.assert_close(result.value.double() / scales, exact, rtol=4e-3, atol=0)
    if solver != "interior_point":  # whose bound only comes as near as the dtype allows
        torch.testing.assert_close(result.lower_bound.double() / scales, exact, rtol=4e-3, atol=1e-6)
    assert marginal_error(result.plan) < 1e-5
    (gradient,) = torch.autograd.grad(result.value.sum(), scaled)
    torch.testing.assert_close(gradient, result.plan, rtol=0, atol=0)


@st.composite
def problems_with_forbidden_pairs(draw):
    """Costs, weights, and forbidden pairs that the weights' own plan avoids."""
    n, m = draw(st.sampled_from([(1, 1), (1, 4), (3, 3), (5, 8), (9, 6), (18, 20)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    plan = torch.rand(2, n, m, generator=generator) * (torch.rand(2, n, m, generator=generator) < 0.3)
    plan[:, torch.arange(max(n, m)) % n, torch.arange(max(n, m)) % m] += 0.1
    forbidden = (plan == 0) & (torch.rand(2, n, m, generator=generator) < draw(st.sampled_from([0.3, 1.0])))
    cost = (torch.rand(2, n, m, generator=generator) - draw(st.sampled_from([0, 0.5]))) * draw(
        st.sampled_from([1e-6, 1.0, 1e6])
    )
    return cost.masked_fill(forbidden, torch.inf), plan.sum(2), plan.sum(1)


def values_by_linear_programming(cost, a, b) -> torch.Tensor:
    """Optimal values with the finite costs' pairs as the only variables."""
    values = []
    for matrix, source, target in zip(cost.double().numpy(), a.double().numpy(), b.double().numpy(), strict=True):
        row, column = np.nonzero(np.isfinite(matrix))
        costs = matrix[row, column]
        largest = np.abs(costs).max()
        sums = np.concatenate(
            [np.equal.outer(np.arange(len(source)), row), np.equal.outer(np.arange(len(target)), column)]
        )
        # The last sum follows from the others, and rounding would make it contradict them.
        wanted = np.concatenate([source / source.sum(), target / target.sum()])[:-1]
        values.append(largest * linprog(costs / largest, A_eq=sums[:-1].astype(float), b_eq=wanted).fun)
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(problems_with_forbidden_pairs(), st.sampled_from(["auto", "hybrid", "shortlist", "exact", "ipot"]))
def test_an_infinite_cost_forbids_a_pair(problem, solver):
    cost, a, b = problem
    forbidden, largest = cost == torch.inf, cost[cost.isfinite()].abs().max().item()
    step = 0.5 * largest
    result = ot.solve(cost.requires_grad_(), a, b, solver=solver, step=step, iterations=2000, certificate=True)
    expected = values_by_linear_programming(cost.detach(), a, b)
    assert (result.plan[forbidden] == 0).all()
    assert marginal_error(result.plan, a, b) < (1e-2 if solver == "ipot" else 1e-5)
    rtol, atol = (1e-2, 1e-2 * largest) if solver == "ipot" else (3.1e-3, 2e-5 * largest)
    torch.testing.assert_close(result.value.double(), expected, rtol=rtol, atol=atol)
    assert (result.lower_bound <= expected + 1e-4 * largest).all()
    (gradient,) = torch.autograd.grad(result.value.sum(), cost)
    torch.testing.assert_close(gradient, result.plan, rtol=0, atol=0)


@pytest.mark.parametrize("solver", ["hybrid", "shortlist", "exact"])
@pytest.mark.parametrize("size", [(4, 5), (20, 25)])
def test_what_no_plan_solves_is_nan_and_spoils_no_other_problem(size, solver):
    cost = torch.rand(4, *size)
    expected = ot.solve(cost, solver=solver).value
    cost[1, 2] = torch.inf  # a row that may go nowhere
    cost[2] = torch.inf
    cost[3, :2, 1:] = torch.inf  # two rows that must share a column too light for both
    result = ot.solve(cost, solver=solver)
    torch.testing.assert_close(result.value[0], expected[0])
    assert result.value[1:].isnan().all()


def test_a_padded_token_may_be_forbidden_everything():
    cost = torch.rand(2, 20, 25)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, 3:] = False
    cost[0, 3:] = torch.inf
    torch.testing.assert_close(ot.solve(cost, mask).value[0], ot.solve(cost[0, :3]).value, rtol=4e-3, atol=0)


def reference_ipot(cost, valid_x, valid_y, step, iterations):
    """The public UNITER code for one problem, in the order of its operations (Algorithm 1 of Xie et al.)."""
    cost = cost[valid_x][:, valid_y].double()
    n, m = cost.shape
    sigma, transposed_plan = torch.ones(n, dtype=torch.float64) / n, torch.ones(m, n, dtype=torch.float64)
    kernel = torch.exp(-cost.T / step)
    for _ in range(iterations):
        q = kernel * transposed_plan
        delta = 1 / (m * (q @ sigma))
        sigma = 1 / (n * (delta @ q))
        transposed_plan = delta[:, None] * q * sigma
    return (transposed_plan.T * cost).sum()


@pytest.mark.parametrize(("step", "iterations"), [(0.5, 50), (0.2, 20)])
def test_ipot_is_the_public_algorithm(step, iterations):
    cost = ot.cosine_cost(*tokens("cone", 5, 12, 20))
    a, b = ragged_masks(5, 12, 20)
    values = ot.solve(cost, a, b, solver="ipot", step=step, iterations=iterations).value
    expected = [reference_ipot(cost[i], a[i], b[i], step, iterations) for i in range(5)]
    torch.testing.assert_close(values.double(), torch.stack(expected), rtol=1e-5, atol=0)


def test_ipot_is_biased_where_it_matters_and_the_default_is_not():
    cost = ot.cosine_cost(*tokens("cone", 4, 40, 145))
    exact = exact_values(cost)
    assert (ot.solve(cost, solver="ipot").value / exact - 1).min() > 0.02
    assert (ot.solve(cost).value / exact - 1).abs().max() < 3e-3


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_masks_of_any_dtype(dtype, solver):
    cost = torch.rand(3, 5, 7)
    a, b = ragged_masks(3, 5, 7)
    expected = ot.solve(cost, a.float(), b.float(), solver=solver).value
    torch.testing.assert_close(ot.solve(cost, a.to(dtype), b.to(dtype), solver=solver).value, expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case", ["empty", "no tokens at all", "one token", "equal tokens", "zero vectors", "duplicates", "identical sides"]
)
def test_degenerate_tokens_give_finite_values_and_gradients(case, dtype, solver):
    x, y = torch.randn(3, 6, 8), torch.randn(3, 9, 8)
    a, b = torch.ones(3, 6), torch.ones(3, 9)
    if case == "empty":
        a[1] = 0
    elif case == "no tokens at all":
        x = x[:, :0]
        a = a[:, :0]
    elif case == "one token":
        a[:, 1:], b[:, 1:] = 0, 0
    elif case == "equal tokens":
        x, y = torch.ones_like(x), torch.ones_like(y)
    elif case == "zero vectors":
        x[0], y[1, 2:5] = 0, 0
    elif case == "duplicates":
        x[:, 1:], y[:, 4:] = x[:, :1], y[:, :1]
    else:
        y = x.clone()
        b = a
    x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cost = ot.cosine_cost(x, y)
        result = ot.solve(cost, a, b, solver=solver, certificate=True)
    assert result.value.dtype == result.plan.dtype == torch.float32
    result.value.sum().backward()
    for tensor in (result.value, result.plan, result.lower_bound, x.grad, y.grad):
        assert tensor.isfinite().all()
    if case == "empty":
        assert result.value[1] == 0
        assert (result.plan[1] == 0).all()
        assert (x.grad[1] == 0).all()
        assert (result.value[[0, 2]] > 0).all()
    elif case == "no tokens at all":
        assert (result.value == 0).all()
    elif solver != "ipot":
        torch.testing.assert_close(result.value.double(), exact_values(cost, a, b), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_garbage_at_padding_changes_nothing(solver):
    clean = torch.rand(3, 6, 8)
    a, b = ragged_masks(3, 6, 8)
    expected = ot.solve(clean, a, b, solver=solver)
    dirty = clean.clone()
    dirty[~(a.unsqueeze(-1) & b.unsqueeze(-2))] = float("nan")
    dirty[~a] = float("inf")
    dirty.requires_grad_()
    result = ot.solve(dirty, a, b, solver=solver)
    torch.testing.assert_close(result.value, expected.value)
    result.value.sum().backward()
    torch.testing.assert_close(dirty.grad, expected.plan)


@pytest.mark.parametrize(
    ("bad", "solver"),
    [(bad, solver) for bad in (float("nan"), -float("inf")) for solver in SOLVERS] + [(float("inf"), "interior_point")],
)
def test_a_cost_that_is_not_finite_spoils_its_own_problem_only(bad, solver):
    cost = torch.rand(3, 6, 8)
    expected = ot.solve(cost, solver=solver).value
    cost[1, 2, 3] = bad
    value = ot.solve(cost, solver=solver).value
    torch.testing.assert_close(value[[0, 2]], expected[[0, 2]])
    assert value[1].isnan()


@pytest.mark.parametrize("solver", SOLVERS)
def test_leading_dimensions(solver):
    cost = torch.rand(2, 3, 5, 4)
    b = torch.rand(3, 4)
    result = ot.solve(cost, None, b, solver=solver, certificate=True)
    assert result.plan.shape == cost.shape
    assert result.value.shape == result.lower_bound.shape == (2, 3)
    single = ot.solve(cost[1, 2], None, b[2], solver=solver)
    assert single.value.shape == ()
    torch.testing.assert_close(single.value, result.value[1, 2], rtol=3e-3, atol=0)
    assert ot.solve(cost[:0], solver=solver).value.shape == (0, 3)


def test_auto_is_the_hybrid_on_the_cpu():
    cost = ot.cosine_cost(*tokens("random", 2, 30, 40))
    torch.testing.assert_close(ot.solve(cost).plan, ot.solve(cost, solver="hybrid").plan)  # others: 6e-3 off


def test_hybrid_sends_to_the_simplex_what_it_cannot_prove():
    """A batch of all regimes: each problem must come back as good as in a batch of its own kind."""
    cost = torch.cat([ot.cosine_cost(*tokens(regime, 2, 40, 145)) for regime in REGIMES])
    result = ot.solve(cost, solver="hybrid", certificate=True)
    exact = exact_values(cost)
    torch.testing.assert_close(result.value.double(), exact, rtol=3.01e-3, atol=0)
    assert ((result.value - result.lower_bound) / result.value < 3.1e-3).all()
    tight = ot.solve(cost, solver="hybrid", tolerance=1e-5)
    torch.testing.assert_close(tight.value.double(), exact, rtol=1.1e-5, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": torch.ones(3)}, "cost must be a floating tensor"),
        ({"cost": torch.ones(3, 4, dtype=torch.int64)}, "cost must be a floating tensor"),
        ({"cost": torch.ones(2, 3, 4), "a": torch.ones(2, 4)}, "a must have"),
        ({"cost": torch.ones(2, 3, 4), "b": torch.ones(3, 4)}, "b must have"),
        ({"cost": torch.ones(3, 4), "a": torch.tensor([1.0, -1.0, 1.0])}, "a must hold nonnegative"),
        ({"cost": torch.ones(3, 4), "b": torch.tensor([1.0, float("nan"), 1.0, 0])}, "b must hold nonnegative"),
        ({"cost": torch.ones(3, 4), "solver": "emd"}, "solver must be one of auto"),
        ({"cost": torch.ones(3, 4), "unroll": True}, "piecewise constant"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ot.solve(**arguments)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("certificate", [False, True])
def test_compiled_it_is_one_operator_of_the_graph(solver, certificate):
    torch._dynamo.reset()
    x, y = tokens("random", 3, 9, 12)
    a, b = ragged_masks(3, 9, 12)
    a[1] = False
    x[0, ~a[0]] = float("nan")

    def distance(x, a):
        return ot.solve(ot.cosine_cost(x, y), a, b, solver=solver, certificate=certificate)

    expected = distance(x.requires_grad_(), a)
    compiled = torch.compile(distance, backend="aot_eager", fullgraph=True)
    result = compiled(x, a)
    torch.testing.assert_close(result.plan, expected.plan)
    torch.testing.assert_close(result.value, expected.value)
    assert (result.lower_bound is None) is not certificate
    if certificate:
        torch.testing.assert_close(result.lower_bound, expected.lower_bound)
    gradients = [torch.autograd.grad(r.value.square().sum(), x)[0][a] for r in (result, expected)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="a must hold nonnegative"):
        compiled(x, -a.float())


def test_the_operator_keeps_its_promises():
    cost, weights = torch.rand(2, 5, 7), torch.ones(2, 5)
    torch.library.opcheck(torch.ops.hf_mmalign.solve, (cost, weights, None, "auto", 3e-3, 0, 0.5, False))
    empty = torch.ops.hf_mmalign.solve(cost[:, :0], None, None, "auto", 3e-3, 0, 0.5, False)
    assert [tuple(part.shape) for part in empty] == [(2, 0, 7), (2,)]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda cost: ot.solve(cost), "cost"),
        (lambda cost: ot.solve(torch.ones(3, 4), cost[:, 0]), "a"),
        (lambda cost: ot.solve(torch.ones(3, 4), None, cost[0]), "b"),
        (lambda cost: ot.cosine_cost(cost, torch.ones(3, 4)), "x"),
        (lambda cost: ot.cosine_cost(torch.ones(3, 4), cost), "y"),
        (lambda cost: ot.multi_marginal(cost, [torch.ones(3), torch.ones(4)]), "cost"),
        (lambda cost: ot.multi_marginal(torch.ones(3, 4), [torch.ones(3), cost[0]]), r"marginals\[1\]"),
        (lambda cost: ot.bures_cost(torch.ones(3, 4), torch.ones(3, 4), cost, torch.ones(3, 4)), "mean_y"),
    ],
)
def test_numpy_input_is_named(call, name):
    with pytest.raises(TypeError, match=rf"^{name} must be a torch.Tensor, got numpy.ndarray; torch.from_numpy makes"):
        call(np.ones((3, 4)))


def test_lists_are_no_weights():
    with pytest.raises(TypeError, match=r"^a must be a torch.Tensor, got builtins.list$"):
        ot.solve(torch.ones(3, 4), [1, 1, 0])


class _Distances(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        cost = ot.cosine_cost(*tokens("random", 4, 20, 30, seed=index))
        return ot.solve(cost).value, ot.solve(cost, solver="exact").value


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_solves_in_forked_data_loader_workers():
    here = _Distances()[1]
    loader = DataLoader(_Distances(), num_workers=1, multiprocessing_context="fork", timeout=60)
    ours, exact = list(loader)[1]
    torch.testing.assert_close(ours[0], here[0])
    torch.testing.assert_close(exact[0], here[1])
