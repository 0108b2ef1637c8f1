"""CAL's asymmetric information bottleneck beside a late-fusion model: it serves the loss, never a prediction."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...losses.information_bottleneck import asymmetric_bottleneck_loss, compression_factors, contribution_ratios
from ...ot.costs import no_autocast

# Of a correlation matrix's diagonal, which is singular where few samples have the modality.
_RIDGE = 1e-4


class AsymmetricBottleneck(nn.Module):
    """An MLP to a narrow Z_m from each modality's vector X_m, and the loss on them (Eqs. 9–13 of CAL).

    Args:
        widths (`Mapping[str, int]`): Width of every modality's vector, in their order.
        size (`int`): Width of each Z_m.
        compression_lambda (`float`): λ of β_m = exp(−λ a_m) (Eq. 9).
        variant (`str`): Which terms the loss has (Table 4), see
            [`~losses.information_bottleneck.asymmetric_bottleneck_loss`].

    Attributes:
        coefficients (`torch.Tensor` of shape `(M,)`): a_m, which training's modulation sets; equal until then.
    """

    coefficients: Tensor

    def __init__(self, widths: Mapping[str, int], size: int, compression_lambda: float, variant: str):
        super().__init__()
        self.names, self.compression_lambda, self.variant = list(widths), compression_lambda, variant
        self.compressors = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))
                for name, width in widths.items()
            }
        )
        self.register_buffer("coefficients", torch.full((len(widths),), 1 / len(widths)))

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        fused: Tensor,
        present: Mapping[str, Tensor],
        likelihood: Callable[[Mapping[str, Tensor]], Tensor],
    ) -> Tensor:
        """L_AIB (Eq. 13) of a batch; the gradient reaches Z_m and X_m, while the fused vector is the fixed target.

        Args:
            vectors (`Mapping[str, torch.Tensor]`): X_m, `(B, d_m)`, of the modalities that the batch has.
            fused (`torch.Tensor` of shape `(B, d)`): What the classifier reads.
            present (`Mapping[str, torch.Tensor]`): `(B,)` bool: the samples that have each.
            likelihood (`Callable`): The log-likelihood `(B,)` of the labels by the fusion head on such vectors, without
                dropout.

        Returns:
            `torch.Tensor` of shape `()`.
        """
        compressed = {name: self.compressors[name](vector) for name, vector in vectors.items()}
        where = [self.names.index(name) for name in vectors]
        return asymmetric_bottleneck_loss(
            list(compressed.values()),
            list(vectors.values()),
            fused.detach(),
            self.betas[where],
            self._ratios(vectors, compressed, present, likelihood),
            torch.stack([present[name] for name in vectors]),
            self.variant,
        )

    @property
    def betas(self) -> Tensor:
        """`(M,)`: β_m (Eq. 9)."""
        return compression_factors(self.coefficients.float(), self.compression_lambda)

    @torch.no_grad()
    def set_coefficients(self, coefficients: Mapping[str, float]) -> dict[str, float]:
        """Take a_m; returns `beta_<modality>`."""
        values = [coefficients[name] for name in self.names]
        self.coefficients.copy_(torch.tensor(values))
        return {f"beta_{name}": beta for name, beta in zip(self.names, self.betas.tolist(), strict=True)}

    @torch.no_grad()
    def _ratios(
        self,
        vectors: Mapping[str, Tensor],
        compressed: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        likelihood: Callable[[Mapping[str, Tensor]], Tensor],
    ) -> Tensor:
        """det_con = φ(c_m) / φ(m), `(M,)`; c_m is what a linear map reads of X_m in Z_m, which the fusion head can take."""
        full, whole, part = likelihood(vectors).mean(), [], []
        for name, vector in vectors.items():
            without = likelihood({**vectors, name: torch.zeros_like(vector)}).mean()
            read = linear_reading(compressed[name], vector, present[name]).to(vector.dtype)
            whole.append(full - without)
            part.append(likelihood({**vectors, name: read}).mean() - without)
        return contribution_ratios(torch.stack(whole), torch.stack(part))


def linear_reading(z: Tensor, x: Tensor, present: Tensor) -> Tensor:
    """The best affine prediction of x from z over the samples that count, by least squares.

    Args:
        z (`torch.Tensor` of shape `(B, k)`), x (`torch.Tensor` of shape `(B, d)`): Computed in fp64.
        present (`torch.BoolTensor` of shape `(B,)`): Samples that count.

    Returns:
        `torch.Tensor` of shape `(B, d)`, fp64; 0 for samples that do not count.
    """
    with no_autocast(x.device):
        weight = present.unsqueeze(1).double()
        count = weight.sum().clamp(min=1)
        z, x = z.double().nan_to_num(), x.double().nan_to_num()
        mean_z, mean_x = (weight * z).sum(dim=0) / count, (weight * x).sum(dim=0) / count
        z, x = weight * (z - mean_z), weight * (x - mean_x)
        gram = z.mT @ z
        ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
        gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution, _ = torch.linalg.solve_ex(gram, z.mT @ x)  # whose error check would wait for the device
        return weight * (z @ solution + mean_x)
