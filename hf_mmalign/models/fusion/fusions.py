"""How the modalities' vectors become one. A fusion is a class here, which classification and translation both use."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling_base import AdversarialPair


class Fused(NamedTuple):
    """What a fusion makes of a batch.

    Attributes:
        vector (`torch.Tensor` of shape `(B, width)`): The fused vector.
        losses (`dict[str, torch.Tensor]`): The fusion's own loss components, unweighted scalars by name.
        weights (`dict[str, torch.Tensor]`, *optional*): `(B,)` by modality: how much of each is in the vector, of fusions
            that weigh.
        pairs (`dict[str, AdversarialPair]`, *optional*): Rows for critics by loss component, of fusions that are trained
            against some.
        codes (`dict[str, torch.Tensor]`, *optional*): `(B, width)` by modality, of fusions whose vector is the sum of
            these, weighted.
    """

    vector: Tensor
    losses: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    pairs: dict[str, AdversarialPair] | None = None
    codes: dict[str, Tensor] | None = None


class ConcatFusion(nn.Module):
    """Concatenation: nothing is learnt.

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector, in their order.

    Attributes:
        width (`int`): Of the fused vector.
    """

    def __init__(self, widths: Mapping[str, int]):
        super().__init__()
        self.widths = dict(widths)
        self.width = sum(self.widths.values())

    def build_critics(self) -> nn.ModuleDict:
        """The critics that it is trained against; none."""
        return nn.ModuleDict()

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
        with_losses: bool = True,
    ) -> Fused:
        """Fuse a batch.

        Args:
            vectors (`Mapping[str, torch.Tensor]`): `(B, d_m)` by modality; those that the whole batch misses are left out,
                and zeros stand for them, as for the samples that miss one.
            present (`Mapping[str, torch.Tensor]`, *optional*): `(B,)` bool by modality: the samples that have it; by
                default those whose vector is not 0.
            classes (`torch.Tensor` of shape `(B, num_labels)`, *optional*): What is known of the samples' classes, see
                [`~losses.task.class_shares`]. Only training may depend on it.
            with_losses (`bool`): Whether the fusion's own losses are asked for.
        """
        return Fused(self.concatenated(vectors), {})

    def concatenated(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """`(B, k)`, with k the sum of the widths."""
        present = next(iter(vectors.values()))
        parts = [
            vectors[name] if name in vectors else present.new_zeros(present.shape[0], width)
            for name, width in self.widths.items()
        ]
        return torch.cat(parts, dim=1)


class AutoFusion(ConcatFusion):
    """Auto-Fusion: the concatenation, compressed so that it can be reconstructed (Eq. 1 of Auto-Fusion and GAN-Fusion).

    z (k) → k/2, tanh → latent, relu is the fused vector; latent → k/2, relu → k its reconstruction. The loss component
    `reconstruction` is the mean squared error between z and its reconstruction. z is a constant there as the target: where
    its gradient flows too, as Eq. 1 leaves open, the encoders meet the target by moving it, and what a modality says is
    lost (on digits-translation the colours of the pictures, BLEU 78 instead of 100).

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector, in their order.
        latent_size (`int`): Width of the fused vector.
    """

    def __init__(self, widths: Mapping[str, int], latent_size: int):
        super().__init__(widths)
        whole = self.width
        half = max(whole // 2, 1)
        self.compress = nn.ModuleList([nn.Linear(whole, half), nn.Linear(half, latent_size)])
        self.reconstruct = nn.ModuleList([nn.Linear(latent_size, half), nn.Linear(half, whole)])
        self.width = latent_size

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
        with_losses: bool = True,
    ) -> Fused:
        whole = self.concatenated(vectors)
        latent = F.relu(self.compress[1](torch.tanh(self.compress[0](whole))))
        if not with_losses:
            return Fused(latent, {})
        reconstructed = self.reconstruct[1](F.relu(self.reconstruct[0](latent)))
        return Fused(latent, {"reconstruction": F.mse_loss(reconstructed.float(), whole.detach().float())})
