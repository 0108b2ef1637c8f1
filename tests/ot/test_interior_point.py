import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mmalign import ot
from hf_mmalign.ot.interior_point import interior_point
from hf_mmalign.ot.problem import Problem

from .problems import exact_values, ragged_masks, tokens


class _Counter(TorchDispatchMode):
    """Counts operators that compute something; views of a tensor launch nothing."""

    def __init__(self):
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.launches += not (function.is_view or "empty" in function.name())
        return function(*args, **(kwargs or {}))


def _operators(batch: int, n: int, m: int, iterations: int) -> int:
    """Solves on the meta device, whose tensors have no values: whatever asked for one would fail."""
    cost, a, b = (torch.empty(batch, *size, device="meta") for size in ((n, m), (n,), (m,)))
    with _Counter() as counter:
        result = ot.solve(cost, a, b, iterations=iterations, certificate=True)
    assert result.plan.shape == cost.shape
    assert result.value.shape == result.lower_bound.shape == (batch,)
    return counter.launches


def test_the_default_on_accelerators_never_reads_a_value_and_its_work_list_is_fixed():
    assert _operators(2, 8, 9, 14) == _operators(64, 145, 200, 14)
    per_iteration = _operators(4, 10, 12, 11) - _operators(4, 10, 12, 10)
    assert per_iteration <= 100


def test_on_an_accelerator_extra_iterations_do_no_harm(monkeypatch):
    """Only the CPU stops early; elsewhere problems that are done are carried through all iterations."""
    cost = ot.cosine_cost(*tokens("near", 6, 40, 145))
    a, b = ragged_masks(6, 40, 145)
    problem = Problem.build(cost, a, b)
    monkeypatch.setattr(torch.Tensor, "any", lambda self, *_: torch.tensor(True))
    plan, _ = interior_point(problem, iterations=40)
    monkeypatch.undo()
    torch.testing.assert_close((plan * problem.cost).sum((1, 2)).double(), exact_values(cost, a, b), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [(20, 31), (31, 20)])
def test_in_fp64_it_reaches_any_tolerance(size):
    cost = ot.cosine_cost(*tokens("noisy", 4, *size)).double()
    result = ot.solve(cost, solver="interior_point", tolerance=1e-9, iterations=40, certificate=True)
    torch.testing.assert_close(result.value, exact_values(cost), rtol=1e-8, atol=0)
    torch.testing.assert_close(result.lower_bound, result.value, rtol=1e-8, atol=0)


def test_light_tokens_do_not_upset_it():
    generator = torch.Generator().manual_seed(0)
    cost = ot.cosine_cost(*tokens("random", 16, 50, 40))
    a, b = (torch.rand(16, size, generator=generator) ** 12 for size in (50, 40))
    value = ot.solve(cost, a, b, solver="interior_point").value
    torch.testing.assert_close(value.double(), exact_values(cost, a, b), rtol=1e-3, atol=0)


def test_restores_the_users_matrix_precision():
    torch.set_float32_matmul_precision("high")
    try:
        ot.solve(torch.rand(2, 5, 6), solver="interior_point")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
