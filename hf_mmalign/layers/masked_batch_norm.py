"""Batch norm over the rows that count."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm1d):
    """[`~torch.nn.BatchNorm1d`] that measures on the rows that count, and on none where there are fewer than two.

    Then it takes its running statistics, as in evaluation. The host need not know how many rows count, so that shapes stay
    what they are in compiled graphs and accelerators are not waited for. Statistics are fp32.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor, counted: Tensor | None = None, measures: bool = True) -> Tensor:
        """`(R, d)`, normalised, in the dtype of `input`.

        Args:
            input (`torch.Tensor` of shape `(R, d)`): The rows.
            counted (`torch.BoolTensor` of shape `(R,)`, *optional*): Those that count, all by default.
            measures (`bool`): False takes the running statistics in training, too, and leaves them as they are.
        """
        if not (self.training and measures):
            running = (self.running_mean, self.running_var)
            return F.batch_norm(input, *running, self.weight, self.bias, training=False, eps=self.eps)
        rows = input.float()
        weight = rows.new_ones(rows.shape[0]) if counted is None else counted.to(rows.dtype)
        count = weight.sum()
        weight = (weight / count.clamp(min=1)).unsqueeze(1)
        mean = (rows * weight).sum(dim=0)
        variance = ((rows - mean).square() * weight).sum(dim=0)
        enough = count > 1
        with torch.no_grad():
            share = self.momentum * enough
            unbiased = variance * count / (count - 1).clamp(min=1)
            new_mean = self.running_mean + share * (mean - self.running_mean)
            new_variance = self.running_var + share * (unbiased - self.running_var)
        old_mean, old_variance = self.running_mean.clone(), self.running_var.clone()
        self.running_mean.copy_(new_mean)
        self.running_var.copy_(new_variance)
        self.num_batches_tracked.add_(enough)
        mean, variance = torch.where(enough, mean, old_mean), torch.where(enough, variance, old_variance)
        normal = (rows - mean) * (variance + self.eps).rsqrt()
        return (normal * self.weight + self.bias).to(input.dtype)


class MaskedSequential(nn.Sequential):
    """[`~torch.nn.Sequential`] that tells its batch norms which rows count."""

    def forward(self, input: Tensor, counted: Tensor | None = None, measures: bool = True) -> Tensor:
        for layer in self:
            input = layer(input, counted, measures) if isinstance(layer, MaskedBatchNorm) else layer(input)
        return input
