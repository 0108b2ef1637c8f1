"""GAN-Fusion: each modality's vector, generated so that a critic takes it for what the others say (§3.2, Eqs. 2–4)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...layers.critics import Critic, Discriminator
from ...layers.masked_batch_norm import MaskedBatchNorm, MaskedSequential
from ..modeling_base import AdversarialPair
from .fusions import AutoFusion, Fused

_NOISE = 0.01


class Generator(MaskedSequential):
    """G: d → 2d → 2d → d with batch norm and LeakyReLU 0.2.

    Args:
        size (`int`): d.
    """

    def __init__(self, size: int):
        super().__init__(
            nn.Linear(size, 2 * size),
            MaskedBatchNorm(2 * size),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * size, 2 * size),
            MaskedBatchNorm(2 * size),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * size, size),
        )


class GanFusion(nn.Module):
    """z_fuse = F([z_g of every modality]), where z_g = G_m(z_m + noise) is trained to be like what the others say, z_tr.

    z_tr is the others' Auto-Fusion. Each vector is projected to the latent width first. Of two modalities the other
    one's projected vector stands for z_tr. Loss components are `reconstruction`, the mean of the Auto-Fusions' (with
    three modalities and more), and in training against critics `generator_<modality>`, −log D_m(z_g). A sample that
    misses a modality has zeros for its z_g, and takes no part in batch norms and losses about it.

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector, in their order; at least two.
        latent_size (`int`): Width of all that is inside, and of the fused vector.

    Attributes:
        width (`int`): Of the fused vector.
    """

    def __init__(self, widths: Mapping[str, int], latent_size: int):
        super().__init__()
        self.width = latent_size
        self.project = nn.ModuleDict({name: nn.Linear(width, latent_size) for name, width in widths.items()})
        self.generators = nn.ModuleDict({name: Generator(latent_size) for name in widths})
        self.complements = nn.ModuleDict()
        if len(widths) > 2:
            for name in widths:
                others = {other: latent_size for other in widths if other != name}
                self.complements[name] = AutoFusion(others, latent_size)
        self.combine = nn.Sequential(nn.Linear(len(widths) * latent_size, latent_size), nn.LeakyReLU(0.2))

    def build_critics(self) -> nn.ModuleDict:
        """A discriminator for each target modality."""
        critics: dict[str, Critic] = {name: Discriminator(self.width, self.width) for name in self.project}
        return nn.ModuleDict(critics)

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
        with_losses: bool = True,
    ) -> Fused:
        """As :meth:`ConcatFusion.forward`."""
        some = next(iter(vectors.values()))
        if present is None:
            present = {name: vector.ne(0).any(dim=1) for name, vector in vectors.items()}
        nobody = some.new_zeros(some.shape[0], dtype=torch.bool)
        present = {name: present.get(name, nobody) for name in self.project}
        blank = some.new_zeros(some.shape[0], self.width)
        latent = {
            name: self.project[name](vectors[name]).masked_fill(~present[name].unsqueeze(1), 0)
            if name in vectors
            else blank
            for name in self.project
        }
        # What others ask during a step, CAL's bottleneck say, leaves noise and statistics alone.
        learns = self.training and (with_losses or torch.is_grad_enabled())
        generated = {name: self._generated(name, vector, present[name], learns) for name, vector in latent.items()}
        fused = self.combine(torch.cat(list(generated.values()), dim=1))
        if not with_losses:
            return Fused(fused, {})
        losses, pairs = {}, {}
        for name in self.project:
            others = {other: vector for other, vector in latent.items() if other != name}
            has_other = torch.stack([present[other] for other in others]).any(dim=0)
            if self.complements:
                real, told, *_ = self.complements[name](others)
                losses["reconstruction"] = losses.get("reconstruction", 0.0) + told["reconstruction"] / len(
                    self.project
                )
            else:
                (real,) = others.values()
            pairs[f"generator_{name}"] = AdversarialPair(name, real, generated[name], present[name] & has_other)
        return Fused(fused, losses, None, pairs)

    def _generated(self, name: str, latent: Tensor, present: Tensor, learns: bool) -> Tensor:
        if learns:
            latent = latent + _NOISE * torch.randn_like(latent)
        return self.generators[name](latent, present, learns).masked_fill(~present.unsqueeze(1), 0)
