import numpy as np
import ot as pot
import torch

from hf_mmalign.losses.wma import alignment_penalty, transport_distance


def masked_tokens(lengths, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(lengths), max(lengths), width, generator=generator)
    return tokens, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def exact_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = (tokens.double().numpy() for tokens in (x, y))
    x, y = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True) for tokens in (x, y))
    weights = [np.full(len(tokens), 1 / len(tokens)) for tokens in (x, y)]
    return pot.emd2(*weights, 1 - x @ y.T)


def test_distance_is_the_exact_one_over_valid_tokens_only():
    (x, x_mask), (y, y_mask) = masked_tokens([3, 5, 1], seed=1), masked_tokens([4, 2, 7], seed=2)
    x[~x_mask], y[~y_mask] = 1e4, -1e4  # padding must not matter
    distance, valid, _ = transport_distance(x, y, x_mask, y_mask)
    expected = [exact_distance(x[i, x_mask[i]], y[i, y_mask[i]]) for i in range(3)]
    assert valid.all()
    np.testing.assert_allclose(distance.numpy(), expected, rtol=5e-3)


def test_a_sample_without_one_modality_has_distance_zero_and_no_gradient():
    (x, x_mask), (y, y_mask) = masked_tokens([3, 3]), masked_tokens([4, 4], seed=2)
    y_mask[1] = False
    x.requires_grad_()
    distance, valid, _ = transport_distance(x, y, x_mask, y_mask)
    distance.sum().backward()
    assert valid.tolist() == [True, False]
    assert distance[1] == 0
    assert torch.isfinite(x.grad).all()
    assert x.grad[0].abs().sum() > 0
    assert x.grad[1].abs().sum() == 0


def test_gradient_is_that_of_the_exact_distance():
    (x, mask), (y, _) = masked_tokens([4]), masked_tokens([4], seed=5)
    x.requires_grad_()
    transport_distance(x, y, mask, mask)[0].sum().backward()
    step = 1e-3
    for token, channel in [(0, 0), (2, 3), (3, 5)]:
        moved = [x.detach().clone() for _ in range(2)]
        moved[0][0, token, channel] += step
        moved[1][0, token, channel] -= step
        slope = (exact_distance(moved[0][0], y[0]) - exact_distance(moved[1][0], y[0])) / (2 * step)
        assert abs(x.grad[0, token, channel].item() - slope) < 1e-3


def test_penalty_is_equation_9():
    distance, valid = torch.tensor([0.5, 0.8, 0.3]), torch.tensor([True, True, False])
    reference = torch.tensor(0.4)
    expected = ((0.5 - 1.5 * 0.4) ** 2 + (0.8 - 1.5 * 0.4) ** 2 + 0) / 3
    assert torch.allclose(alignment_penalty(distance, valid, reference, 1.5), torch.tensor(expected))
    minimise = alignment_penalty(distance, valid, torch.tensor(torch.nan), 0.0)
    assert torch.allclose(minimise, torch.tensor((0.25 + 0.64) / 3))


def test_a_pair_without_reference_contributes_nothing():
    distance = torch.tensor([0.5, 0.8], requires_grad=True)
    penalty = alignment_penalty(distance, torch.tensor([True, True]), torch.tensor(torch.nan), 1.0)
    penalty.backward()
    assert penalty == 0
    assert torch.equal(distance.grad, torch.zeros(2))
