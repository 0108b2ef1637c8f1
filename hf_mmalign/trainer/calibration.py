"""Batches beyond the first one, on which a model measures what its losses refer to."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import IterableDataset

from ..data.rows import rows_by_batch
from .arguments import MultimodalTrainingArguments


def further_batches(
    dataset: Any, collate: Any, args: MultimodalTrainingArguments, count: int
) -> Iterator[dict[str, Any]]:
    """This process's micro-batches of `count` global batches, drawn from the training data without touching its order.

    They are the same rows however many processes share them: the first of a permutation that follows from the seed, or of a
    stream, whose rows do not lie at hand, the first ones.

    Args:
        dataset: The training data.
        collate (`Callable`): Makes a batch of rows.
        args ([`MultimodalTrainingArguments`]): Batch size, accumulation, processes and seed.
        count (`int`): How many.
    """
    size = args.train_batch_size
    wanted = count * size * args.gradient_accumulation_steps * args.world_size
    if isinstance(dataset, IterableDataset):
        rows = [row for index, row in enumerate(dataset.take(wanted)) if index % args.world_size == args.process_index]
    else:
        seed = args.seed if args.data_seed is None else args.data_seed
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:wanted]
        data = rows_by_batch(dataset)
        rows = (data[int(index)] for index in order[args.process_index :: args.world_size])
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield collate(batch)
            batch = []
    if batch:
        yield collate(batch)
