import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign import ot
from hf_mmalign.ot.certificates import lower_bound
from hf_mmalign.ot.problem import Problem

from .problems import REGIMES, exact_values, ragged_masks, tokens


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 2**20),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 1e2, 1e4]),
)
def test_any_potentials_give_a_lower_bound(n, m, seed, scale, offset):
    generator = torch.Generator().manual_seed(seed)
    cost = scale * torch.randn(4, n, m, generator=generator)
    a, b = ragged_masks(4, n, m, seed)
    potentials = scale * (offset + torch.randn(4, n, generator=generator))
    potentials[a == 0] = torch.nan
    bound = lower_bound(Problem.build(cost, a, b), potentials)
    assert (bound <= exact_values(cost, a, b) + 1e-6 * scale).all()


@pytest.mark.parametrize("solver", ["hybrid", "shortlist", "interior_point", "exact", "ipot"])
@pytest.mark.parametrize("regime", REGIMES)
def test_value_minus_bound_is_an_upper_bound_of_the_error_and_a_tight_one(regime, solver):
    cost = ot.cosine_cost(*tokens(regime, 4, 40, 60))
    a, b = ragged_masks(4, 40, 60)
    result = ot.solve(cost, a, b, solver=solver, certificate=True)
    exact = exact_values(cost, a, b)
    error, gap = result.value - exact, result.value - result.lower_bound
    assert (error <= gap + 1e-6).all()
    if solver == "ipot":  # its potentials are those of a strength of 0.01: a warning rather than a measurement
        assert (gap < 0.05).all()
    else:
        assert (gap <= 3.1e-3 * exact + 1e-5).all()


def test_only_on_request_and_without_a_gradient():
    cost = torch.rand(2, 5, 6, requires_grad=True)
    assert ot.solve(cost).lower_bound is None
    assert not ot.solve(cost, certificate=True).lower_bound.requires_grad


def test_nothing_to_transport_is_certified_zero():
    result = ot.solve(torch.rand(2, 5, 6), torch.zeros(2, 5), certificate=True)
    assert (result.lower_bound == 0).all()
    assert (ot.solve(torch.rand(2, 0, 6), certificate=True).lower_bound == 0).all()
