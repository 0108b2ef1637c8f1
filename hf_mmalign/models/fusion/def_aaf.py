"""DEF + AAF: class-conditional codes of the modalities, put together by a gate (`papers/def_aaf`, §3 and §4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.critics import WassersteinCritic
from ...losses.discriminative_embedding import (
    contrastive_loss,
    entropy_shortfall,
    homologous_loss,
    reconstruction_losses,
)
from ..modeling_base import AdversarialPair
from .configuration_def_aaf import DefAafFields
from .fusions import ConcatFusion, Fused


class ClassConditionalAutoencoder(nn.Module):
    """The CCAE: an encoder f and a decoder g that all classes, and all modalities, share (Eqs. 2 and 3).

    x^s is projected to the latent width, which makes modalities of any width one kind of input; f and g are a hidden layer
    each, and read the class embedding e_w beside their input.

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector x^s.
        size (`int`): Width of the codes c^s, of the class embedding and of the hidden layers.
        shared (`bool`): Whether f and g are shared, and not one of each modality.
    """

    def __init__(self, widths: Mapping[str, int], size: int, shared: bool):
        super().__init__()
        self.shared = shared
        self.project = nn.ModuleDict({name: nn.Linear(width, size) for name, width in widths.items()})
        self.reconstruct = nn.ModuleDict({name: nn.Linear(size, width) for name, width in widths.items()})
        keys = ["shared"] if shared else list(widths)
        self.encoders = nn.ModuleDict({key: _conditional(size) for key in keys})
        self.decoders = nn.ModuleDict({key: _conditional(size) for key in keys})

    def encode(self, name: str, projected: Tensor, condition: Tensor) -> Tensor:
        """c^s `(B, size)` of projected x^s `(B, size)` and e_w `(B, size)`."""
        return self.encoders["shared" if self.shared else name](torch.cat([projected, condition], dim=1))

    def decode(self, name: str, code: Tensor, condition: Tensor) -> Tensor:
        """x^s `(B, d_s)` as any modality's code `(B, size)` tells it."""
        decoder = self.decoders["shared" if self.shared else name]
        return self.reconstruct[name](F.gelu(decoder(torch.cat([code, condition], dim=1))))


def _conditional(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * size, size), nn.GELU(), nn.Linear(size, size))


class ModalityGate(nn.Module):
    """The dynamic fusion operator Λ: weights of a sample's modalities from their own codes (Eqs. 10 and 11).

    Args:
        size (`int`): Width of the codes.
        floor (`float`): η, the least weight of a modality that is there (Appendix D); at most 1/M.
        uniform (`bool`): Equal weights, nothing learnt: plain averaging.
    """

    def __init__(self, size: int, floor: float, uniform: bool):
        super().__init__()
        self.floor = floor
        self.score = None if uniform else nn.Sequential(nn.Linear(size, size // 2), nn.Tanh(), nn.Linear(size // 2, 1))

    def forward(self, codes: Tensor, present: Tensor) -> Tensor:
        """α `(B, M)` of codes `(B, M, size)`, 0 where `present` `(B, M)` is False; a row of nothing is all 0."""
        scores = codes.new_zeros(codes.shape[:2]) if self.score is None else self.score(codes).squeeze(2)
        # A row without anything would be NaN: it takes part, and is set to 0 afterwards.
        nothing = ~present.any(dim=1, keepdim=True)
        weights = scores.masked_fill(~(present | nothing), -torch.inf).softmax(dim=1)
        count = present.sum(dim=1, keepdim=True).to(weights.dtype)
        return (self.floor + (1 - self.floor * count) * weights).masked_fill(~present, 0)


class ClassCondition(nn.Module):
    """The class embedding e_w, and what stands for it where the class is not known.

    In training the label's, unless it is dropped, with a probability. Where it is, and always in evaluation whatever labels
    are given, the expectation under a classifier that is trained beside, or without one an embedding that means "unknown".
    So the head has been trained on what it will see. Tasks without classes have one embedding for all.

    Args:
        num_classes (`int`): 0 where there are none.
        size (`int`): Width of e_w.
        dropout (`float`): The probability.
        posterior (`bool`): Whether there is that classifier.
    """

    def __init__(self, num_classes: int, size: int, dropout: float, posterior: bool):
        super().__init__()
        self.dropout = dropout
        self.unknown = nn.Parameter(torch.zeros(size))
        self.embedding = nn.Embedding(num_classes, size) if num_classes else None
        self.posterior = nn.Linear(size, num_classes) if num_classes and posterior else None

    def forward(self, projected: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """e_w `(B, size)`, and the posterior's logits `(B, num_classes)` where it is there.

        Args:
            projected (`torch.Tensor` of shape `(B, size)`): What the posterior reads.
            classes (`torch.Tensor` of shape `(B, num_classes)`, *optional*): Share of each class in a sample's label; zeros
                where a sample has none. Read in training only.
        """
        unknown = self.unknown.expand(projected.shape[0], -1)
        if self.embedding is None:
            return unknown, None
        logits = None if self.posterior is None else self.posterior(projected)
        told = unknown if logits is None else logits.softmax(dim=1).to(unknown.dtype) @ self.embedding.weight
        if not self.training or classes is None:
            return told, logits
        known = classes.any(dim=1, keepdim=True)
        known = known & (torch.rand_like(known, dtype=torch.float32) >= self.dropout)
        return torch.where(known, classes.to(told.dtype) @ self.embedding.weight, told), logits


class DefAafFusion(nn.Module):
    """DEF + AAF: z = Σ α^s c^s of class-conditional codes c^s and gate weights α^s (Eqs. 2–11).

    Its loss components are `homologous` (Eq. 4), `intra_reconstruction` and `cross_reconstruction` (Eqs. 5 and 6),
    `contrastive` (Eq. 8), `class_posterior`, the cross-entropy of the classifier that stands in for labels, and
    `gate_entropy` (Appendix D), and against critics `alignment_<modality>`, E[D(c^s)] − E[D(z)] (Eq. 14); those of weight 0
    are not computed. What is reconstructed is a fixed target: encoders that could make it easier by saying less would.

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector, in their order.
        config ([`DefAafFields`]): The rest.
        num_classes (`int`): 0 where there are none.

    Attributes:
        width (`int`): Of the fused vector.
    """

    def __init__(self, widths: Mapping[str, int], config: DefAafFields, num_classes: int):
        super().__init__()
        self.config, self.width = config, config.latent_size
        self.joined = ConcatFusion(widths) if config.early_fusion else None
        sizes = dict(widths) if self.joined is None else {"all": self.joined.width}
        self.autoencoder = ClassConditionalAutoencoder(sizes, self.width, config.shared_autoencoder)
        self.condition = ClassCondition(num_classes, self.width, config.class_dropout, config.class_posterior)
        self.gate = ModalityGate(self.width, config.gate_floor, config.gate == "uniform")
        # Of one code the fused vector is that code: there is nothing to align.
        self.aligned = config.alignment_weight > 0 and len(sizes) > 1

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
        with_losses: bool = True,
    ) -> Fused:
        """As :meth:`ConcatFusion.forward`; of a sample without any modality the vector is 0."""
        if self.joined is not None:
            vectors, present = {"all": self.joined.concatenated(vectors)}, None
        if present is None:
            present = {name: vector.ne(0).any(dim=1) for name, vector in vectors.items()}
        has = torch.stack([present[name] for name in vectors], dim=1)
        projected = {name: self.autoencoder.project[name](vector) for name, vector in vectors.items()}
        share = has / has.sum(dim=1, keepdim=True).clamp(min=1)
        condition, posterior = self.condition(_weighted(projected, share), classes)
        codes = {name: self.autoencoder.encode(name, one, condition) for name, one in projected.items()}
        weights = self.gate(torch.stack(list(codes.values()), dim=1), has)
        losses = {}
        if with_losses:
            losses = self._losses(vectors, codes, condition, present)
            if posterior is not None:
                losses["class_posterior"] = _posterior_loss(posterior, classes)
            if self.config.gate_entropy_weight:
                losses["gate_entropy"] = entropy_shortfall(weights, has, self.config.gate_entropy_floor)
        fused = _weighted(codes, weights)
        by_name = dict(zip(vectors, weights.unbind(dim=1), strict=True))
        if self.joined is not None:
            return Fused(fused, losses)
        pairs = self._pairs(codes, fused, present, by_name) if with_losses and self.aligned else None
        return Fused(fused, losses, by_name, pairs, codes)

    def build_critics(self) -> nn.ModuleDict:
        """One for all modalities, or one for each; none without alignment, or with nothing to align."""
        if not self.aligned:
            return nn.ModuleDict()
        names = list(self.autoencoder.project) if self.config.critic_per_modality else ["shared"]
        penalty = self.config.gradient_penalty
        return nn.ModuleDict({name: WassersteinCritic(self.width, self.width, penalty) for name in names})

    def _pairs(self, codes, fused: Tensor, present, weights) -> dict[str, AdversarialPair]:
        """For each modality its codes, real, and the fused vectors of the samples that have it (Eq. 12)."""
        pairs = {}
        for name in self.autoencoder.project:
            critic = name if self.config.critic_per_modality else "shared"
            if name not in codes:  # of the whole batch; processes add up their terms one by one
                nobody = torch.zeros_like(next(iter(present.values())))
                pairs[f"alignment_{name}"] = AdversarialPair(critic, fused, fused, nobody)
                continue
            share, code = None, codes[name]
            if self.config.alignment == "gate":
                # γ_m, times M: the config's weights of the terms are for equal ones.
                share = weights[name].detach().float().mean() * len(codes)
            pairs[f"alignment_{name}"] = AdversarialPair(critic, code, fused, present[name], share)
        return pairs

    def _losses(self, vectors, codes, condition: Tensor, present) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.homologous_weight:
            losses["homologous"] = homologous_loss(codes, present)
        if config.reconstruction_weight:
            targets = {name: vector.detach() for name, vector in vectors.items()}
            decoded = {
                goal: {source: self.autoencoder.decode(goal, code, condition) for source, code in codes.items()}
                for goal in targets
            }
            intra, cross = reconstruction_losses(targets, decoded, present)
            losses |= {"intra_reconstruction": intra, "cross_reconstruction": cross}
        if config.contrastive_weight:
            losses["contrastive"] = contrastive_loss(codes, present, config.contrastive_temperature)
        return losses


def _weighted(vectors: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """`(B, d)` sum of `(B, d)` vectors by modality, each times its column of `(B, M)` weights."""
    return sum(
        vector * weight.to(vector.dtype).unsqueeze(1)
        for vector, weight in zip(vectors.values(), weights.unbind(1), strict=True)
    )


def _posterior_loss(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Cross-entropy of the classes' shares, its mean over samples with a class; 0 where none is known."""
    if classes is None:
        return logits.new_zeros((), dtype=torch.float32)
    known = classes.any(dim=1)
    return F.cross_entropy(logits.float(), classes, reduction="none").masked_fill(~known, 0).sum() / known.sum().clamp(
        min=1
    )
