"""ViLT with Wasserstein Modality Alignment."""

from collections.abc import Iterator
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViltModel, ViltPreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ...ot.costs import full_precision, no_autocast
from ...ot.values import values_at_hand
from ..modeling_base import ModalityEmbedding
from .configuration_wma import ViltWmaConfig
from .modeling_one_tower import OneTowerModelMixin


class ViltWmaForSequenceClassification(OneTowerModelMixin, ViltPreTrainedModel):
    """ViLT that classifies or regresses from text, image and feature sequences, regularised by WMA (Zhi et al.).

    The backbone keeps ViLT's parameter names: a stock ViLT checkpoint loads here and ours loads in stock [`ViltModel`].
    The head is that of [`ViltForQuestionAnswering`]; with `classifier_pooling="mean"`, without ViLT's pooler. At
    inference the model is plain ViLT with its patches in raster order; stock ViLT draws their order at random, which
    changes nothing but the order.

    On a CPU a batch is as long as its fullest picture. Elsewhere, and in compiled and exported models, the host does not
    know that number, and padded patches stay, masked. There `config.max_image_length`, the most patches that a picture
    keeps, bounds the length too: for pictures of both orientations, set it to what one has (240 at 384 × 640).

    Args:
        config ([`ViltWmaConfig`]): The configuration.
    """

    config_class = ViltWmaConfig
    config: ViltWmaConfig

    def __init__(self, config: ViltWmaConfig):
        super().__init__(config)
        self.vilt = ViltModel(config, add_pooling_layer=config.classifier_pooling == "cls")
        self.classifier = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size * 2),
            nn.LayerNorm(config.hidden_size * 2),
            nn.GELU(),
            nn.Linear(config.hidden_size * 2, config.num_labels),
        )
        self._build_one_tower()
        self.post_init()

    @property
    def _text_embedding(self) -> nn.Module:
        return self.vilt.embeddings.text_embeddings

    def _embed_text_ids(self, input_ids, token_type_ids) -> torch.Tensor:
        return super()._embed_text_ids(input_ids, token_type_ids) + self.vilt.embeddings.token_type_embeddings.weight[0]

    def _embed_native(self, input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask):
        embeddings = {}
        if input_ids is not None:
            embeddings["text"] = self._embed_text(input_ids, attention_mask, token_type_ids)
        if pixel_values is not None:
            embeddings["image"] = self._embed_image(pixel_values, pixel_mask)
        return embeddings

    def _embed_image(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> ModalityEmbedding:
        """Image class token and patches, as stock ViLT embeds them but in raster order.

        Where `config.max_image_length` leaves patches out, they are drawn at random in training, as in ViLT, and evenly
        spaced in evaluation.
        """
        embedding = self.vilt.embeddings
        patches = embedding.patch_embeddings(pixel_values)  # (B, d, h, w)
        if pixel_mask is None:
            valid = patches.new_ones(patches.shape[0], *patches.shape[2:], dtype=torch.bool)
        else:
            valid = F.interpolate(pixel_mask.unsqueeze(1).float(), size=patches.shape[2:])[:, 0].bool()  # (B, h, w)
        patches = patches + self._image_positions(valid)
        tokens, mask = self._select_patches(patches.flatten(2).transpose(1, 2), valid.flatten(1))

        present = mask.any(dim=1, keepdim=True)
        head = (embedding.cls_token + embedding.position_embeddings[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = embedding.dropout(torch.cat([head, tokens], dim=1)) + embedding.token_type_embeddings.weight[1]
        content = torch.cat([torch.zeros_like(present), mask], dim=1)
        return ModalityEmbedding(tokens, torch.cat([present, mask], dim=1), content)

    def _image_positions(self, valid: torch.Tensor) -> torch.Tensor:
        """`(B, d, h, w)`: the table interpolated to each picture's height and width in patches, zero on padding.

        Bilinear with aligned corners, as in ViLT, but by a matrix per axis: the host need not know any picture's size.
        """
        config, table = self.config, self.vilt.embeddings.position_embeddings[0, 1:]
        side = config.image_size // config.patch_size
        vertical = _interpolation(valid[:, :, 0].sum(dim=1), valid.shape[1], side)
        horizontal = _interpolation(valid[:, 0, :].sum(dim=1), valid.shape[2], side)
        with no_autocast(valid.device):
            grid = full_precision(table).T.reshape(config.hidden_size, side, side)
            grid = torch.einsum("drc,bwc->bdrw", grid, horizontal.to(grid))
            return torch.einsum("bhr,bdrw->bdhw", vertical.to(grid), grid).to(table.dtype)

    def _select_patches(self, tokens: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep at most `config.max_image_length` valid patches per picture, and no more columns than that.

        On a CPU also no more columns than the fullest picture needs; elsewhere the host would have to wait for that number.
        """
        limit, columns = self.config.max_image_length, valid.shape[1]
        if 0 < limit < columns:
            valid, columns = self._thin_out(valid, limit), limit
        if values_at_hand(valid):
            columns = min(columns, max(1, int(valid.sum(dim=1).max())))
        if columns == valid.shape[1]:
            return tokens, valid
        # A stable sort puts the valid patches first and keeps their raster order.
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)[:, :columns]
        return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])), valid.gather(1, order)

    def _thin_out(self, valid: torch.Tensor, limit: int) -> torch.Tensor:
        """`(B, N)`: `limit` of the valid patches where there are more, all of them where there are not."""
        if self.training:
            order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(dim=1)
            return valid & (order.argsort(dim=1) < limit)
        count = valid.sum(dim=1, keepdim=True)
        rank = valid.cumsum(dim=1) - 1
        spaced = (rank + 1) * limit // count.clamp(min=1) > rank * limit // count.clamp(min=1)
        return valid & (spaced | (count <= limit))

    def _encode_sequence(self, tokens, attention_mask, **flags) -> BaseModelOutput:
        output = self.vilt.encoder(tokens, attention_mask=attention_mask, **flags)
        output.last_hidden_state = self.vilt.layernorm(output.last_hidden_state)
        return output

    def _pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.vilt.pooler(hidden_states)

    def _native_parameters(self, name: str) -> Iterator[nn.Parameter]:
        embedding = self.vilt.embeddings
        if name == "text":
            return embedding.text_embeddings.parameters()
        return chain(embedding.patch_embeddings.parameters(), [embedding.cls_token, embedding.position_embeddings])


def _interpolation(sizes: torch.Tensor, length: int, side: int) -> torch.Tensor:
    """`(B, length, side)` fp32: row i holds the weights of a table's `side` entries in entry i of `sizes` `(B,)`."""
    place = torch.arange(length, device=sizes.device, dtype=torch.float32)
    position = place * ((side - 1) / (sizes - 1).clamp(min=1)).unsqueeze(1)
    weights = 1 - (position.unsqueeze(2) - torch.arange(side, device=sizes.device)).abs()
    return weights.clamp(min=0) * (place < sizes.unsqueeze(1)).unsqueeze(2)
