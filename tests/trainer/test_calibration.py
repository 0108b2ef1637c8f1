"""WMA's reference over more than one batch."""

import pytest
import torch
from datasets import Dataset

from hf_mmalign import BertWmaConfig
from hf_mmalign.trainer.calibration import further_batches
from tests.trainer.test_trainer import assert_same_weights
from tests.trainer.training import Samples, build_model, build_trainer, collate, weights


class OneOf:
    """The arguments of one of several processes."""

    def __init__(self, world: int, rank: int, size: int, accumulation: int):
        self.world_size, self.process_index, self.train_batch_size = world, rank, size
        self.gradient_accumulation_steps, self.seed, self.data_seed = accumulation, 3, None


@pytest.mark.parametrize("stream", [False, True])
def test_the_rows_are_the_same_for_any_number_of_processes(stream):
    data = Dataset.from_dict({"value": list(range(50))})
    data = data.to_iterable_dataset(num_shards=5) if stream else data
    found = []

    def values(rows):
        return [row["value"] for row in rows]

    for world, size, accumulation in ((1, 8, 1), (2, 4, 1), (2, 2, 2), (4, 2, 1)):
        processes = [OneOf(world, rank, size, accumulation) for rank in range(world)]
        batches = [list(further_batches(data, values, args, 3)) for args in processes]
        assert all(len(batch) == size for own in batches for batch in own)
        found.append(sorted(value for own in batches for batch in own for value in batch))
    assert len(set(found[0])) == 24
    assert all(rows == found[0] for rows in found)
    few = list(further_batches(data, len, OneOf(1, 0, 8, 1), 100))
    assert sum(few) == 50


def test_the_mean_over_the_batches(tmp_path):
    trainer = build_trainer(tmp_path, build_model(wma_calibration_batches=3), max_steps=1, learning_rate=0.0)
    seen = []
    calibrate = trainer.model.calibrate
    trainer.model.calibrate = lambda batches: calibrate([seen.append(batch) or batch for batch in batches])
    trainer.train()
    assert [len(batch["labels"]) for batch in seen] == [4, 4, 4]
    expected = build_model()
    expected.calibrate(seen)
    torch.testing.assert_close(trainer.model.wma.reference, expected.wma.reference)
    alone = build_model()
    alone.calibrate(seen[:1])
    assert (alone.wma.reference - expected.wma.reference).abs().max() > 1e-4


def test_they_are_drawn_once_and_training_sees_the_samples_it_would_have_seen(tmp_path):
    """Also where a pair stays without a reference, as no sample has it."""
    order, drawn = [], []
    for number, batches in enumerate((1, 3)):
        model = build_model(wma_calibration_batches=batches, wma_alpha=1e-30)
        data = Samples()
        data.batch["feature_mask"]["audio"] = torch.zeros_like(data.batch["feature_mask"]["audio"])
        told = {"train_dataset": data, "data_collator": lambda rows: drawn.append(len(rows)) or collate(rows)}
        trainer = build_trainer(tmp_path / str(number), model, told, max_steps=4)
        trainer.train()
        order.append(weights(trainer.model))
        assert model.needs_calibration
    for one in order:
        del one["wma.reference"]
    assert_same_weights(*order)
    assert len(drawn) == 4 + 4 + 2


def test_at_least_one():
    with pytest.raises(ValueError, match="wma_calibration_batches is 0; it is at least 1"):
        BertWmaConfig(wma_calibration_batches=0)
