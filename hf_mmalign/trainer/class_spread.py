"""How compact classes are in the codes of modalities and in what is fused of them (Figure 2 of DEF + AAF)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Gather = Callable[[torch.Tensor], torch.Tensor]

_FUSED = "fused"


class ClassSpread:
    """Collects the codes of an evaluation, of which nothing but sums are kept, and tells their variance within classes.

    Args:
        modalities (`Sequence[str]`): Their names, in the config's order.
        num_classes (`int`): C.
        gather (`Callable`): A tensor of a batch, first dimension B, to that of all processes.
    """

    def __init__(self, modalities: Sequence[str], num_classes: int, gather: Gather):
        self.names, self.num_classes, self.gather = [_FUSED, *modalities], num_classes, gather
        self._sums: torch.Tensor | None = None  # (M + 1, C, d + 2) float64: of vectors, of their squares, of samples

    def add(self, outputs: dict[str, Any], labels: torch.Tensor) -> None:
        """Take the outputs of a batch and its labels; without `codes` in them, or a class `(B,)` for each sample, there is
        nothing to take. Collective."""
        codes, weights = outputs.get("codes"), outputs.get("gate_weights")
        if not codes or labels.dim() != 1 or labels.is_floating_point():
            return
        first = next(iter(codes.values()))
        nothing = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        having = {name: weights[name] > 0 if name in weights else nothing for name in self.names[1:]}
        vectors = [codes.get(name, torch.zeros_like(first)).float() for name in self.names[1:]]
        fused = sum(codes[name].float() * weights[name].float().unsqueeze(1) for name in codes)
        vectors = self.gather(torch.stack([fused, *vectors], dim=1)).cpu().double()
        present = self.gather(
            torch.stack([torch.stack(list(having.values())).any(dim=0), *having.values()], dim=1)
        ).cpu()
        labels = self.gather(labels).cpu()
        present = present & (labels >= 0).unsqueeze(1)
        one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), self.num_classes).double()
        counted = torch.einsum("bm,bc->mcb", present.double(), one_hot)
        rows = torch.cat([vectors, vectors.square().sum(dim=2, keepdim=True), torch.ones_like(vectors[..., :1])], dim=2)
        sums = torch.einsum("mcb,bmd->mcd", counted, rows)
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self) -> dict[str, float]:
        """Of the fused vector and of each modality's codes: `intra_class_variance_<name>`, their mean squared distance from
        the mean of their class, by dimension; and `intra_class_share_<name>`, what share that is of the variance without
        regard to classes, which no scale changes: 0 where classes are points. Nothing of what no sample has."""
        found: dict[str, float] = {}
        for name, sums in zip(self.names, () if self._sums is None else self._sums, strict=False):
            size, count = sums.shape[1] - 2, sums[:, -1]
            within = (sums[:, -2] - sums[:, :size].square().sum(dim=1) / count.clamp(min=1)).sum()
            whole = sums[:, -2].sum() - sums[:, :size].sum(dim=0).square().sum() / count.sum().clamp(min=1)
            if count.sum() > 0:
                found[f"intra_class_variance_{name}"] = (within / count.sum() / size).item()
            if whole > 0:
                found[f"intra_class_share_{name}"] = (within / whole).item()
        return found
