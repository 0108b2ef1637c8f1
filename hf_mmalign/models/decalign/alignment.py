"""The loss machinery of DecAlign inside a model: prototypes and their state, latent encoders, and the terms of Eq. 13."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...layers.kernels.dropout import dropout
from ...losses.decoupling import decoupling_loss
from ...losses.gaussian_mixture import (
    GaussianMixture,
    blend_mixtures,
    fit_mixture,
    initial_mixture,
    responsibilities,
)
from ...losses.mmd import mmd_loss
from ...losses.moments import semantic_loss
from ...losses.prototype_transport import matching_from_plan, prototype_costs, prototype_loss, transport_loss
from ...ot.costs import no_autocast
from .configuration_decalign import DecAlignConfig


@dataclass(frozen=True)
class DecoupledModalities:
    """A batch after decoupling. M counts the config's modalities in order; those the batch misses are 0 and not present.

    Attributes:
        unique, common: F_uni and F_com by modality, `(B, T_m, d)`, 0 where padded; the batch's modalities only.
        present: `(M, B)` bool.
        pooled_unique, pooled_common: Means over time, `(M, B, d)`.
    """

    unique: dict[str, Tensor]
    common: dict[str, Tensor]
    present: Tensor
    pooled_unique: Tensor
    pooled_common: Tensor


class HierarchicalAlignment(nn.Module):
    """Computes L_dec, L_hete and L_homo of a batch (Eqs. 1–12); keeps running mixtures where the config asks for them.

    The persistent buffers `mixture_weights` `(M, K)`, `mixture_means` and `mixture_variances` `(M, K, d)` exist with
    `mixture_momentum` only; NaN marks a modality not seen so far. Mixtures, transport, moments and MMD run in fp32
    whatever the autocast.
    """

    def __init__(self, config: DecAlignConfig):
        super().__init__()
        self.config = config
        if config.latent_size > 0 and config.computes("homo"):
            self.latent_encoders = nn.ModuleDict(
                {name: LatentEncoder(config) for name in config.modalities}  # Section 3.3.1
            )
        if config.mixture_momentum > 0:
            shape = (len(config.modalities), config.num_prototypes)
            self.register_buffer("mixture_weights", torch.full(shape, torch.nan))
            self.register_buffer("mixture_means", torch.full((*shape, config.hidden_size), torch.nan))
            self.register_buffer("mixture_variances", torch.full((*shape, config.hidden_size), torch.nan))

    def forward(self, batch: DecoupledModalities) -> dict[str, Tensor]:
        """The unweighted components of the loss by name, each `()` fp32. Parts of a sum carry no gradient of their own."""
        losses = {}
        if self.config.computes("decouple"):
            losses["decouple"] = self._decoupling(batch)
        with no_autocast(batch.present.device):
            if self.config.computes("hete"):
                losses |= _with_sum("hete", self._heterogeneity(batch))
        if self.config.computes("homo"):
            losses |= _with_sum("homo", self._homogeneity(batch))
        return losses

    def _decoupling(self, batch: DecoupledModalities) -> Tensor:
        """Eq. 1: the sum over modalities, or their mean."""
        present = dict(zip(self.config.modalities, batch.present, strict=True))
        terms = [
            decoupling_loss(unique, batch.common[name], present[name], self.config.decoupling)
            for name, unique in batch.unique.items()
        ]
        total = torch.stack(terms).sum()
        return total / batch.present.any(dim=1).sum().clamp(min=1) if self.config.loss_reduction == "mean" else total

    def _heterogeneity(self, batch: DecoupledModalities) -> dict[str, Tensor]:
        """The two terms of Eq. 9."""
        config, present = self.config, batch.present
        x = batch.pooled_unique.float()
        mixture = self._prototypes(x, present)
        weights = responsibilities(x, mixture)
        counted = present.any(dim=1)
        marginals = (weights * present.unsqueeze(-1)).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1)
        terms, plan = {}, None
        if config.computes("hete_transport") or config.prototype_matching == "transport":
            value, plan = transport_loss(
                prototype_costs(mixture, config.loss_reduction),
                marginals,
                counted,
                config.transport_epsilon,
                config.transport_epsilon_scale,
                config.transport_entropy,
                config.transport_iterations,
            )
            if config.computes("hete_transport"):
                terms["hete_transport"] = value
        if config.computes("hete_prototype"):
            matching = matching_from_plan(plan) if config.prototype_matching == "transport" else None
            terms["hete_prototype"] = prototype_loss(
                x, present, weights, mixture.means, matching, config.loss_reduction
            )
        return terms

    def _homogeneity(self, batch: DecoupledModalities) -> dict[str, Tensor]:
        """Eqs. 10 and 11."""
        config, z, terms = self.config, batch.pooled_common, {}
        if config.latent_size > 0:
            z = torch.stack([encoder(z[m]) for m, encoder in enumerate(self.latent_encoders.values())])
        if config.computes("homo_semantic"):
            terms["homo_semantic"] = semantic_loss(z, batch.present, config.loss_reduction)
        if config.computes("homo_mmd"):
            terms["homo_mmd"] = mmd_loss(z, batch.present, config.mmd_bandwidth)
        return terms

    def _prototypes(self, x: Tensor, present: Tensor) -> GaussianMixture:
        """Mixtures of the batch (Section 3.2.1), joined with the running ones where there are any."""
        config, floor = self.config, self.config.mixture_variance_floor
        start = initial_mixture(x, present, config.num_prototypes, floor)
        if config.mixture_gradient == "last_step":
            start = start.detach()
        if config.mixture_momentum == 0:
            return fit_mixture(x, present, start, config.mixture_iterations, floor, config.mixture_gradient)
        running = self._copy_of_running()
        seen = ~running.weights[:, :1].isnan()
        start = _choose(seen, running, start)
        batch = fit_mixture(x, present, start, config.mixture_iterations, floor, config.mixture_gradient)
        if not self.training:
            return _choose(seen, running, batch)
        self._remember(start, batch.detach(), present, seen)
        blended = _choose(seen, blend_mixtures(start, batch, config.mixture_momentum), batch)
        return _choose(present.any(dim=1, keepdim=True), blended, start)

    @property
    def _running(self) -> GaussianMixture:
        return GaussianMixture(self.mixture_weights, self.mixture_means, self.mixture_variances)

    @torch.compiler.disable
    def _copy_of_running(self) -> GaussianMixture:
        """What this step starts from, before :meth:`_remember` changes it.

        Outside of a compiled graph, whose backward would make the copy again when the buffers have changed.
        """
        return GaussianMixture(*(buffer.clone() for buffer in self._running))

    def _remember(self, start: GaussianMixture, batch: GaussianMixture, present: Tensor, seen: Tensor) -> None:
        """Move the running mixtures towards the batch's, those of all processes together."""
        counts = present.sum(dim=1, keepdim=True).to(batch.weights)
        if dist.is_available() and dist.is_initialized():
            batch, counts = _merge_processes(batch, counts)
        moved = _choose(seen, blend_mixtures(start, batch, self.config.mixture_momentum), batch)
        unseen = GaussianMixture(*(torch.full_like(part, torch.nan) for part in start))
        moved = _choose(counts > 0, moved, _choose(seen, start, unseen))
        for buffer, value in zip(self._running, moved, strict=True):
            buffer.copy_(value.detach())


class LatentEncoder(nn.Module):
    """Maps pooled common features `(B, d)` of one modality to the latent space in which distributions are compared."""

    def __init__(self, config: DecAlignConfig):
        super().__init__()
        self.dropout = config.classifier_dropout
        self.hidden = nn.Linear(config.hidden_size, config.hidden_size)
        self.latent = nn.Linear(config.hidden_size, config.latent_size)

    def forward(self, features: Tensor) -> Tensor:
        return self.latent(dropout(self.hidden(features).relu(), self.dropout, self.training))


def _with_sum(name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.stack(list(terms.values())).sum()} | {part: value.detach() for part, value in terms.items()}


def _choose(condition: Tensor, first: GaussianMixture, second: GaussianMixture) -> GaussianMixture:
    """Per modality, `(M, 1)` bool, one of two mixtures."""
    return GaussianMixture(
        torch.where(condition, first.weights, second.weights),
        torch.where(condition.unsqueeze(-1), first.means, second.means),
        torch.where(condition.unsqueeze(-1), first.variances, second.variances),
    )


def _merge_processes(batch: GaussianMixture, counts: Tensor) -> tuple[GaussianMixture, Tensor]:
    """The mixture with the moments of all processes' batches, component by component, and all their samples."""
    assigned = (batch.weights * counts).unsqueeze(-1)
    first = assigned * batch.means
    second = assigned * (batch.variances + batch.means.square())
    sums = torch.cat([assigned, first, second, counts.unsqueeze(-1).expand_as(assigned)], dim=-1).double()
    dist.all_reduce(sums)
    width = batch.means.shape[-1]
    assigned, first, second, total = sums.split([1, width, width, 1], dim=-1)
    means = torch.where(assigned > 0, first / assigned, batch.means.double())
    variances = torch.where(assigned > 0, second / assigned - means.square(), batch.variances.double())
    counts = total[:, 0]
    merged = GaussianMixture(assigned.squeeze(-1) / counts.clamp(min=1), means, variances)
    return GaussianMixture(*(part.to(batch.means.dtype) for part in merged)), counts.to(batch.means.dtype)
