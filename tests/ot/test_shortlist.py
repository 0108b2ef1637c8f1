import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign import ot
from hf_mmalign.ot import shortlist as module
from hf_mmalign.ot.problem import Problem
from hf_mmalign.ot.simplex import over_threads, solve_on_arcs

from .problems import REGIMES, exact_values, marginal_error, ragged_masks, tokens


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("rounds", [1, 6])
def test_a_poor_shortlist_is_repaired(monkeypatch, regime, rounds):
    """One arc per token is often infeasible and never enough: staircase, pricing and the dense simplex must help."""
    monkeypatch.setattr(module, "_ARCS_PER_TOKEN", 1)
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    cost = ot.cosine_cost(*tokens(regime, 8, 30, 47))
    a, b = ragged_masks(8, 30, 47)
    result = ot.solve(cost, a, b, solver="shortlist", tolerance=1e-3, certificate=True)
    exact = exact_values(cost, a, b)
    torch.testing.assert_close(result.value.double(), exact, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(result.lower_bound.double(), exact, rtol=1e-3, atol=1e-5)
    assert marginal_error(result.plan, a, b) < 1e-5


def test_tolerance_zero_is_exact():
    cost = ot.cosine_cost(*tokens("near", 8, 40, 145)).double()
    value = ot.solve(cost, solver="shortlist", tolerance=0.0).value
    torch.testing.assert_close(value, exact_values(cost), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**20), st.sampled_from([0, 1, 6]))
def test_the_staircase_always_carries_a_flow(n, m, seed, skew):
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.rand(3, size, generator=generator) ** skew * (torch.rand(3, size, generator=generator) < 0.7)
        for size in (n, m)
    )
    problem = Problem.build(torch.rand(3, n, m, generator=generator), a, b)
    solvable = torch.nonzero(problem.a.sum(1) > 0).squeeze(1).numpy()
    shortlisted = np.zeros((3, n, m), dtype=bool)
    module._add_staircase(problem, solvable, shortlisted)
    for i in solvable:
        source, target = (w[i].double().numpy() for w in (problem.a, problem.b))
        rows, columns = np.flatnonzero(source), np.flatnonzero(target)
        arcs = [np.ascontiguousarray(k) for k in np.nonzero(shortlisted[i][np.ix_(rows, columns)])]
        assert shortlisted[i].sum() == len(arcs[0]) <= len(rows) + len(columns)
        source, target = source[rows] / source.sum(), target[columns] / target.sum()
        solution = solve_on_arcs(source, target, *arcs, np.zeros(len(arcs[0])))
        assert solution is not None
        np.testing.assert_allclose(np.bincount(solution.source, solution.flow, len(rows)), source, atol=1e-12)
        np.testing.assert_allclose(np.bincount(solution.target, solution.flow, len(columns)), target, atol=1e-12)


def test_arcs_that_carry_no_flow_are_reported():
    half = np.array([0.5, 0.5])
    assert solve_on_arcs(half, half, np.array([0, 1]), np.array([0, 0]), np.zeros(2)) is None


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(i):
        if i == 3:
            raise ArithmeticError("third")

    with pytest.raises(ArithmeticError, match="third"):
        over_threads(fail, 8)
