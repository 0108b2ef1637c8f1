"""A model that keeps the package's contract and nothing else, and data for it."""

from types import SimpleNamespace

import torch
from torch import nn

from hf_mmalign.models.modeling_base import ModalityEmbedding, MultimodalModelMixin, MultimodalOutput

SIZES = {"vision": 5, "audio": 3}
WIDTH = 8


class TinyConfig(SimpleNamespace):
    @property
    def task(self):
        return self.problem_type


class TinyModel(MultimodalModelMixin, nn.Module):
    """Linear embeddings behind a class token (valid, no content), dropout, masked mean over all modalities, head."""

    def __init__(self, problem_type="single_label_classification", num_labels=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.config = TinyConfig(
            modalities=list(SIZES), feature_sizes=SIZES, problem_type=problem_type, num_labels=num_labels
        )
        self.embeddings = nn.ModuleDict({name: nn.Linear(size, WIDTH) for name, size in SIZES.items()})
        self.class_tokens = nn.ParameterDict({name: nn.Parameter(torch.randn(WIDTH)) for name in SIZES})
        self.dropout = nn.Dropout(0.5)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, num_labels)
        self.forwards = 0
        self.seen_keys = set()

    @property
    def device(self):
        return self.classifier.weight.device

    @property
    def dtype(self):
        return self.classifier.weight.dtype

    def embed_modalities(self, features, feature_mask):
        embeddings = {}
        for name, values in features.items():
            mask = feature_mask[name].bool()
            head = self.class_tokens[name].expand(len(values), 1, -1)
            embeddings[name] = ModalityEmbedding(
                torch.cat([head, self.embeddings[name](values)], dim=1),
                torch.cat([mask.new_ones(len(mask), 1), mask], dim=1),
                torch.cat([mask.new_zeros(len(mask), 1), mask], dim=1),
            )
        return embeddings

    def forward(self, **batch):
        self.forwards += 1
        self.seen_keys |= set(batch)
        embeddings = self._embed_with_hooks(**batch)
        tokens = torch.cat([embedding.tokens for embedding in embeddings.values()], dim=1)
        mask = torch.cat([embedding.mask for embedding in embeddings.values()], dim=1).unsqueeze(-1).to(tokens.dtype)
        tokens = torch.tanh(self.hidden(self.dropout(tokens))) * mask
        return MultimodalOutput(logits=self.classifier(tokens.sum(dim=1) / mask.sum(dim=1).clamp(min=1)))


class TinyData(torch.utils.data.Dataset):
    """`count` samples with sequences of 1 to 6 steps; `collations` counts how often a batch was made."""

    def __init__(self, count=23, problem_type="single_label_classification", num_labels=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.collations = 0
        self.rows = []
        for _ in range(count):
            row = {
                name: torch.randn(int(torch.randint(1, 7, (), generator=generator)), size, generator=generator)
                for name, size in SIZES.items()
            }
            if problem_type == "single_label_classification":
                row["labels"] = torch.randint(num_labels, (), generator=generator)
            elif problem_type == "multi_label_classification":
                row["labels"] = torch.randint(2, (num_labels,), generator=generator).float()
            else:
                row["labels"] = torch.randn((), generator=generator)
            self.rows.append(row)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def collate(self, rows, extra_padding=0):
        self.collations += 1
        features, masks = {}, {}
        for name, size in SIZES.items():
            length = max(len(row[name]) for row in rows) + extra_padding
            features[name] = torch.zeros(len(rows), length, size)
            masks[name] = torch.zeros(len(rows), length, dtype=torch.long)
            for index, row in enumerate(rows):
                features[name][index, : len(row[name])] = row[name]
                masks[name][index, : len(row[name])] = 1
        batch = {"features": features, "feature_mask": masks}
        if "labels" in rows[0]:
            batch["labels"] = torch.stack([row["labels"] for row in rows])
        return batch
