from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign.losses.mmd import mmd_loss
from tests.losses.problems import SIZES, assert_finite_with_gradient, samples


def expected_kernel(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """E[k(x, y)] with the kernel of Eq. 12, by a double loop."""
    total = 0.0
    for a in x:
        for b in y:
            total += np.exp(-np.sum((a - b) ** 2) / (2 * bandwidth**2))
    return total / (len(x) * len(y))


def equation_11(alone: list[torch.Tensor], bandwidth: float = 1.0) -> float:
    total, modalities = 0.0, len(alone)
    for x, y in combinations([x.double().numpy() for x in alone], 2):
        total += expected_kernel(x, x, bandwidth) + expected_kernel(y, y, bandwidth)
        total -= 2 * expected_kernel(x, y, bandwidth)
    return 2 * total / (modalities * (modalities - 1))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 4.0])
def test_equation_11_on_the_present_samples(sizes, bandwidth):
    z, present, alone = samples(sizes)
    assert mmd_loss(z, present, bandwidth).item() == pytest.approx(equation_11(alone, bandwidth), rel=1e-10)


def test_what_is_missing_costs_no_digit_in_fp32():
    z, present, alone = samples((6, 4, 5), dtype=torch.float32)
    z[~present] = 1e6
    assert mmd_loss(z, present).item() == pytest.approx(equation_11(alone), rel=1e-5)


def test_a_missing_modality_leaves_every_pair():
    z, present, alone = samples((6, 0, 5))
    assert mmd_loss(z, present).item() == pytest.approx(equation_11([alone[0], alone[2]]), rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1e-3, 1.0, 1e3]), st.integers(0, 50))
def test_nonnegative_and_zero_for_equal_samples(scale, seed):
    z, present, _ = samples((6, 6), seed=seed, dtype=torch.float32)
    assert mmd_loss(scale * z, present) > -1e-6
    assert abs(mmd_loss(scale * z[:1].expand(2, -1, -1), present)) < 1e-6


def test_gradcheck():
    z, present, _ = samples((4, 5, 3), width=2)
    assert torch.autograd.gradcheck(lambda z: mmd_loss(z, present), z.requires_grad_())


def test_degenerate_batches_are_finite():
    for sizes in [(1, 1), (0, 0), (0, 3, 0)]:
        z, present, _ = samples(sizes, dtype=torch.bfloat16)
        loss = mmd_loss(z.requires_grad_(), present)
        assert_finite_with_gradient(loss, z)
        assert (loss > 0) == (sizes == (1, 1))
    z, present = torch.ones(2, 4, 3, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
    assert_finite_with_gradient(mmd_loss(z, present), z)
