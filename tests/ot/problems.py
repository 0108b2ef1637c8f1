"""Problems to test on, and references that share no code with the package."""

import numpy as np
import ot as pot
import torch
from torch import Tensor

REGIMES = ("random", "noisy", "near", "cone")


def tokens(regime: str, batch: int, n: int, m: int, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of tokens: unrelated, copies with noise 0.5 or 0.1, or all near one direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(batch, n, width)
    if regime in ("noisy", "near"):
        copied = torch.stack([torch.randperm(max(n, m), generator=generator)[:m] % n for _ in range(batch)])
        y = x.gather(1, copied.unsqueeze(-1).expand(-1, -1, width))
        return x, y + (0.5 if regime == "noisy" else 0.1) * normal(batch, m, width)
    y = normal(batch, m, width)
    mean = 2 * normal(width) if regime == "cone" else torch.zeros(width)
    return x + mean, y + mean


def exact_values(cost: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Optimal values (B,) in float64, one call of POT per problem; 0 for an empty one."""
    values = []
    for i, matrix in enumerate(cost.detach().double().numpy()):
        source = np.ones(cost.shape[1]) if a is None else a[i].double().numpy()
        target = np.ones(cost.shape[2]) if b is None else b[i].double().numpy()
        rows, columns = source > 0, target > 0
        if not rows.any() or not columns.any():
            values.append(0.0)
            continue
        source, target = source[rows] / source[rows].sum(), target[columns] / target[columns].sum()
        matrix = matrix[np.ix_(rows, columns)]
        # POT takes all-negative costs for an infeasible problem.
        values.append(matrix.min() + pot.emd2(source, target, np.ascontiguousarray(matrix - matrix.min())))
    return torch.tensor(values, dtype=torch.float64)


def marginal_error(plan: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> float:
    """Largest L1 distance of a plan's marginals from the normalised weights; empty problems want none."""
    a = torch.ones(plan.shape[:-1]) if a is None else a.to(plan.dtype)
    b = torch.ones(*plan.shape[:-2], plan.shape[-1]) if b is None else b.to(plan.dtype)
    solvable = ((a.sum(-1) > 0) & (b.sum(-1) > 0)).unsqueeze(-1)
    a = torch.where(solvable, a / a.sum(-1, keepdim=True), 0)
    b = torch.where(solvable, b / b.sum(-1, keepdim=True), 0)
    rows = (plan.sum(-1) - a).abs().sum(-1).max()
    return max(rows.item(), (plan.sum(-2) - b).abs().sum(-1).max().item())


def ragged_masks(batch: int, n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks with at least one valid token a side, not always the first ones."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for size in (n, m):
        mask = torch.rand(batch, size, generator=generator) < torch.rand(batch, 1, generator=generator)
        mask[torch.arange(batch), torch.randint(size, (batch,), generator=generator)] = True
        masks.append(mask)
    return masks[0], masks[1]
