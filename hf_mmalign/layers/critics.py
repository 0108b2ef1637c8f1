"""Critics: small networks that are trained beside a model, against it, and that no prediction needs."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masked_batch_norm import MaskedBatchNorm, MaskedSequential


class Critic(nn.Module, ABC):
    """Tells rows of two kinds apart, real and fake ones; a model is trained to make fake ones that it takes for real.

    Everything is fp32. What it returns is by row, so that micro-batches and processes can be put together exactly.
    """

    @abstractmethod
    def losses(
        self, real: Tensor, fake: Tensor, counted: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the critic minimises, and what is worth logging.

        Args:
            real, fake (`torch.Tensor` of shape `(R, d)`): Detached.
            counted (`torch.BoolTensor` of shape `(R,)`): The rows that count. What is returned of others means nothing.
            generator (`torch.Generator`): For random numbers, if it needs any.

        Returns:
            `(R,)` losses, and by name `(R,)` statistics.
        """

    @abstractmethod
    def generator_losses(self, real: Tensor, fake: Tensor, counted: Tensor) -> Tensor:
        """`(R,)`: what the model minimises; the critic's own parameters are constants."""


class Discriminator(Critic):
    """The discriminator of GAN-Fusion (Eqs. 2 and 3): d → h → h → 1 with batch norm and LeakyReLU 0.2.

    It minimises the cross-entropy of real against fake; the model, −log D(fake), which does not saturate. Real ones are
    constants in both. Logged is its
    `accuracy`: 0.5 once it cannot tell.

    Args:
        size (`int`): d.
        hidden_size (`int`): h.
    """

    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.layers = MaskedSequential(
            nn.Linear(size, hidden_size),
            MaskedBatchNorm(hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, hidden_size),
            MaskedBatchNorm(hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, real: Tensor, fake: Tensor, counted: Tensor) -> tuple[Tensor, ...]:
        """`(R,)` logits of real and of fake rows, above 0 for those that it takes for real."""
        # Batch norms see the two together: normalised each on its own, they would be alike however far apart they are.
        return self.layers(torch.cat([real, fake]), torch.cat([counted, counted])).squeeze(1).chunk(2)

    def losses(self, real, fake, counted, generator):
        on_real, on_fake = self(real, fake, counted)
        right = ((on_real > 0).float() + (on_fake < 0).float()) / 2
        return F.softplus(-on_real) + F.softplus(on_fake), {"accuracy": right.detach()}

    def generator_losses(self, real, fake, counted):
        return F.softplus(-self(real.detach(), fake, counted)[1])


class WassersteinCritic(Critic):
    """The critic of WGAN-GP (Gulrajani et al. 2017; Eqs. 12–14 of DEF + AAF): d → h → h → 1 with LeakyReLU 0.2.

    It minimises D(fake) − D(real) + λ (‖∇D(x̂)‖ − 1)², x̂ between the two; the model, D(real) − D(fake), with respect
    to both: where fake vectors are sums of the real ones, as here, real ones held constant would be followed wherever
    the critic's slope leads, and never reached. Without any norm over the batch: the penalty is on the gradient of each
    row alone. Logged are the `distance` D(real) − D(fake), an estimate of the Wasserstein distance, and the
    `gradient_norm`, near 1 where the penalty holds.

    Args:
        size (`int`): d.
        hidden_size (`int`): h.
        gradient_penalty (`float`, defaults to 10): λ.
    """

    def __init__(self, size: int, hidden_size: int, gradient_penalty: float = 10.0):
        super().__init__()
        self.gradient_penalty = gradient_penalty
        self.layers = nn.Sequential(
            nn.Linear(size, hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, hidden_size),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """`(R,)` scores, larger for real ones, of `(R, d)` rows."""
        return self.layers(rows).squeeze(1)

    def losses(self, real, fake, counted, generator):
        share = torch.rand(real.shape[0], 1, generator=generator, dtype=real.dtype, device=generator.device).to(
            real.device
        )
        between = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self(between).sum(), between, create_graph=True)
        # At a gradient of 0, where the norm has no derivative.
        norm = (gradient.square().sum(dim=1) + 1e-12).sqrt()
        distance = self(real) - self(fake)
        statistics = {"distance": distance.detach(), "gradient_norm": norm.detach()}
        return self.gradient_penalty * (norm - 1).square() - distance, statistics

    def generator_losses(self, real, fake, counted):
        return self(real) - self(fake)
