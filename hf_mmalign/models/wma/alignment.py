"""The state and the loss of Wasserstein Modality Alignment inside a one-tower model."""

import torch
import torch.distributed as dist
from torch import nn
from transformers.utils import logging

from ...losses.wma import TransportDistance, alignment_penalty, transport_distance
from ..modeling_base import ModalityEmbedding
from .configuration_wma import WmaFields

logger = logging.get_logger(__name__)

# 1 − cos never exceeds it, so no distance does.
LARGEST_DISTANCE = 2.0


class WassersteinModalityAlignment(nn.Module):
    """Holds the reference distances D̄ (one per pair of modalities) and computes the regulariser of Eq. 10.

    `reference`, `(P,)` fp32, is a persistent buffer and so part of the checkpoint; NaN marks a pair not calibrated yet.
    """

    def __init__(self, config: WmaFields):
        super().__init__()
        self.pairs = config.modality_pairs
        self.beta = float(config.wma_beta)
        self.solver = config.wma_solver
        self.certificate = config.wma_certificate
        self.active = config.wma_alpha > 0 and len(self.pairs) > 0
        self.batch_reference = config.wma_reference == "batch"
        self.relative = config.wma_scale == "relative"
        self._settled = False
        self.register_buffer("reference", torch.full((len(self.pairs),), torch.nan))

    @property
    def needs_calibration(self) -> bool:
        """Whether a reference is used and some pair has none yet."""
        if self._settled or not self.active or self.batch_reference or not (self.beta or self.relative):
            return False
        # Remembered, because reading a tensor's value makes the host wait for the device, and breaks a compiled graph.
        self._settled = self._has_all_references()
        return not self._settled

    @torch.compiler.disable
    def _has_all_references(self) -> bool:
        return not bool(self.reference.isnan().any())

    def forward(self, encoded: dict[str, ModalityEmbedding]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Components of the loss, and diagnostics, `()` fp32 each.

        `wma` is Σ_{m<n} mean_i (D_i^{mn} − β·D̄^{mn})² (Eq. 10, without α), in units of D̄² where it is relative.
        With `wma_certificate`, `wma_gap` is the most by which the solver can have overestimated any of the distances D_i.
        For each pair of modalities the diagnostics are `wma_distance_<m>_<n>`, the batch's mean D over samples that have
        both, `wma_target_<m>_<n>`, β·D̄, and `wma_drift_<m>_<n>`, by how much the mean D has moved from D̄.
        """
        penalties, gaps, diagnostics = [], [], {}
        for index, (m, n) in enumerate(self.pairs):
            reference = self.reference[index]
            told = {f"wma_{what}_{m}_{n}": reference.new_zeros(()) for what in ("distance", "target", "drift")}
            diagnostics |= told  # of every batch: processes add up their logs term by term
            if m not in encoded or n not in encoded:
                continue
            distance, valid, gap = self._distance(encoded[m], encoded[n], self.certificate)
            if self.batch_reference and (self.beta or self.relative):
                reference = self._batch_mean(distance.detach(), valid)
            penalties.append(alignment_penalty(distance, valid, reference, self.beta, self.relative))
            mean = distance.detach().masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)
            target = (self.beta * reference).nan_to_num()
            values = (mean, target, (mean - reference).nan_to_num())
            diagnostics |= dict(zip(told, values, strict=True))
            if gap is not None:
                gaps.append(gap.amax())
        nothing = self.reference.new_zeros(())
        components = {"wma": torch.stack(penalties).sum() if penalties else nothing}
        if self.certificate:
            components["wma_gap"] = torch.stack(gaps).amax() if gaps else nothing
        return components, diagnostics

    def lacks_reference(self, embeddings: dict[str, ModalityEmbedding]) -> bool:
        """Whether some sample has both modalities of a pair not calibrated yet."""
        missing = self.reference.isnan().tolist()
        return any(
            absent
            and m in embeddings
            and n in embeddings
            and bool((embeddings[m].present & embeddings[n].present).any())
            for absent, (m, n) in zip(missing, self.pairs, strict=True)
        )

    def distance_sums(self, encoded: dict[str, ModalityEmbedding]) -> torch.Tensor:
        """`(2, P)` fp64: per pair the sum of D over the samples that have both modalities, and their number."""
        sums = torch.zeros(2, len(self.pairs), dtype=torch.float64, device=self.reference.device)
        for index, (m, n) in enumerate(self.pairs):
            if m in encoded and n in encoded:
                distance, valid, _ = self._distance(encoded[m], encoded[n])
                sums[0, index] = distance.double().sum()
                sums[1, index] = valid.sum()
        return sums

    def set_reference(self, sums: torch.Tensor) -> None:
        """Fix D̄ of the pairs that have none from accumulated :meth:`distance_sums` of all processes."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        mean = (sums[0] / sums[1]).to(self.reference)  # 0 / 0 stays NaN: not calibrated yet
        self.reference.copy_(torch.where(self.reference.isnan(), mean, self.reference))
        self._settled = self._has_all_references()
        for (m, n), value in zip(self.pairs, self.reference.tolist(), strict=True):
            logger.info(f"WMA reference distance between {m} and {n}: {value:.4f}")
            if self.beta * value > LARGEST_DISTANCE:
                logger.warning_once(
                    f"WMA's target for {m} and {n}, wma_beta × reference = {self.beta} × {value:.3f}, lies above 2, the "
                    "largest cosine distance: it cannot be reached and pushes the modalities apart as far as they go."
                )

    def _distance(self, x: ModalityEmbedding, y: ModalityEmbedding, certificate: bool = False) -> TransportDistance:
        return transport_distance(x.tokens, y.tokens, x.content_mask, y.content_mask, self.solver, certificate)

    def _batch_mean(self, distance: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean distance over the samples of this batch that have the pair, all processes together."""
        sums = torch.stack([distance.sum(), valid.sum().to(distance)])
        if self.training and dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        return sums[0] / sums[1]
