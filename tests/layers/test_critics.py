"""Critics: their losses, and that one learns to tell rows apart."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hf_mmalign.layers.critics import Discriminator, WassersteinCritic

ALL = torch.ones(64, dtype=torch.bool)


def rows(count: int = 6, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_discriminator_s_losses_are_cross_entropies():
    """Eqs. 2 and 3: −log D(z_tr) − log(1 − D(z_g)), and, not saturating, −log D(z_g)."""
    critic = Discriminator(3, 5)
    real, fake = rows(), rows(shift=1.0, seed=1)
    losses, told = critic.losses(real, fake, ALL[:6], torch.Generator())
    on_real, on_fake = critic(real, fake, ALL[:6])
    one, zero = torch.ones(6), torch.zeros(6)
    expected = F.binary_cross_entropy_with_logits(on_real, one, reduction="none")
    expected = expected + F.binary_cross_entropy_with_logits(on_fake, zero, reduction="none")
    assert_close(losses, expected)
    assert_close(critic.generator_losses(real, fake, ALL[:6]), -torch.sigmoid(on_fake).log())
    assert_close(told["accuracy"].mean(), ((on_real > 0).float().mean() + (on_fake < 0).float().mean()) / 2)


def test_the_critic_s_gradient_penalty_is_that_of_the_points_between():
    """Eqs. 12–14, the norm of each row's gradient by finite differences."""
    critic = WassersteinCritic(3, 5, gradient_penalty=7.0).double()
    real, fake = rows().double(), rows(shift=1.0, seed=1).double()
    losses, told = critic.losses(real, fake, ALL[:6], torch.Generator().manual_seed(4))
    share = torch.rand(6, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    between = share * real + (1 - share) * fake
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    slopes = [(critic(between + step[axis]) - critic(between - step[axis])) / 2e-6 for axis in range(3)]
    norm = torch.stack(slopes, dim=1).norm(dim=1)
    assert_close(told["gradient_norm"], norm, atol=1e-6, rtol=1e-5)
    assert_close(told["distance"], critic(real) - critic(fake))
    assert_close(losses, critic(fake) - critic(real) + 7.0 * (norm - 1) ** 2, atol=1e-6, rtol=1e-5)
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in critic.parameters())


@pytest.mark.parametrize("kind", [Discriminator, WassersteinCritic])
def test_a_critic_learns_to_tell_and_a_generator_to_be_taken_for_real(kind):
    torch.manual_seed(0)
    critic = kind(3, 16)
    real = rows(64, seed=1)
    shift = torch.full((3,), 3.0, requires_grad=True)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    first = None
    for _ in range(150):
        losses, _ = critic.losses(real, rows(64, seed=2) + shift.detach(), ALL, generator)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        first = losses.mean().item() if first is None else first
    assert losses.mean().item() < first - 0.5
    away = shift.detach().norm()
    (gradient,) = torch.autograd.grad(critic.generator_losses(real, rows(64, seed=2) + shift, ALL).mean(), shift)
    assert (shift - 0.5 * gradient / gradient.norm()).norm() < away


@pytest.mark.parametrize("kind", [Discriminator, WassersteinCritic])
def test_what_the_generator_s_loss_reaches(kind):
    """Of the Wasserstein distance both sides, of a discriminator's verdict the generated one."""
    critic = kind(3, 8).requires_grad_(False)
    real, fake = rows().requires_grad_(), rows(seed=1).requires_grad_()
    critic.generator_losses(real, fake, ALL[:6]).sum().backward()
    assert (real.grad is not None) == (kind is WassersteinCritic)
    assert fake.grad.abs().sum() > 0


def test_rows_that_do_not_count_change_nothing():
    torch.manual_seed(0)
    critic, counted = Discriminator(3, 5), torch.tensor([True, False, True, True, False, True])
    few, _ = critic.losses(rows()[counted], rows(seed=1)[counted], ALL[:4], torch.Generator())
    real, fake = rows().masked_fill(~counted.unsqueeze(1), 9.0), rows(seed=1)
    again, _ = critic.losses(real, fake, counted, torch.Generator())
    assert_close(again[counted], few)
    generated = critic.generator_losses(real, fake, counted)[counted]
    assert_close(generated, critic.generator_losses(rows()[counted], rows(seed=1)[counted], ALL[:4]))
