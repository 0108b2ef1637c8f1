"""Feature sequences of any width brought to a common one by a convolution over time."""

import torch.nn.functional as F
from torch import Tensor, nn


class TemporalProjection(nn.Conv1d):
    """One-dimensional convolution over time, without bias, of sequences `(B, T, D)` (DecAlign's Section 3.1).

    Args:
        feature_size (`int`), hidden_size (`int`): Widths before and after.
        kernel_size (`int`): Time steps that an output sees.
        padding (`str`): `"same"` keeps T; `"valid"` gives T − kernel_size + 1 steps, at least 1.
    """

    def __init__(self, feature_size: int, hidden_size: int, kernel_size: int = 1, padding: str = "same"):
        super().__init__(feature_size, hidden_size, kernel_size, padding=padding, bias=False)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project a padded batch.

        Args:
            features (`torch.Tensor` of shape `(B, T, D)`): Any float dtype; finite also where padded.
            mask (`torch.BoolTensor` of shape `(B, T)`): Valid steps. Padding enters the convolution as 0.

        Returns:
            Tokens `(B, T', hidden_size)` and their mask `(B, T')`, the first T' columns of `mask`: a sequence shorter than
            the kernel keeps its steps.
        """
        features = features.to(self.weight.dtype)
        (kernel_size,) = self.kernel_size
        if kernel_size == 1:
            return F.linear(features, self.weight.squeeze(-1)), mask
        features = (features * mask.unsqueeze(-1).to(features.dtype)).transpose(1, 2)
        missing = kernel_size - features.shape[2]
        if self.padding == "valid" and missing > 0:
            features = F.pad(features, (0, missing))
        tokens = super().forward(features).transpose(1, 2)
        return tokens, mask[:, : tokens.shape[1]]
