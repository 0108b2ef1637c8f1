"""Rows of like length come into a batch, without a column that tells the length."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_mmalign import FusionConfig, FusionForSequenceClassification, MultimodalTrainer, MultimodalTrainingArguments
from hf_mmalign.data.collator import MultimodalCollator
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.lengths import row_lengths
from hf_mmalign.data.processor import MultimodalProcessor, train_tokenizer
from hf_mmalign.data.schema import feature_sequence, modalities_of

WORDS = "one two three four five six seven eight nine ten"


def described(lengths, steps) -> Dataset:
    rng = np.random.default_rng(0)
    rows = {
        "text": [None if length is None else " ".join(WORDS.split()[:length]) for length in lengths],
        "audio": [rng.normal(size=(count, 3)).astype(np.float32) for count in steps],
        "face": [[0.1, 0.2]] * len(steps),
        "label": [0, 1] * (len(steps) // 2),
    }
    columns = {"text": Value("string"), "audio": feature_sequence(3), "label": Value("int64")}
    columns["face"] = List(Value("float32"))
    return Dataset.from_dict(rows, features=Features(columns)).with_format("numpy")


def test_the_length_of_a_row_is_what_the_collator_makes_of_it():
    data = described([3, None, 10, 1], [4, 7, 0, 1])
    processor = MultimodalProcessor(train_tokenizer([WORDS], 60), truncation=True, max_text_length=8)
    collate = MultimodalCollator.from_dataset(processor, data)
    expected = []
    for row in data:
        batch = collate([row])
        masks = [batch["attention_mask"], *batch["feature_mask"].values()]
        expected.append(sum(int(mask.sum()) for mask in masks))
    assert row_lengths(data, processor, modalities_of(data)) == expected
    shuffled = data.select([2, 0, 3, 1])
    assert row_lengths(shuffled, processor, modalities_of(data)) == [expected[index] for index in (2, 0, 3, 1)]


def test_a_translation_counts_as_the_text_does():
    rows = {"text": ["one two", "one"], "target": ["two", "one two three four"]}
    data, processor = Dataset.from_dict(rows), MultimodalProcessor(train_tokenizer([WORDS], 60))
    alone = row_lengths(data.remove_columns("target"), processor, {"text": "text"})
    both = row_lengths(data, processor, {"text": "text"})
    assert [together - text for together, text in zip(both, alone, strict=True)] == [
        len(ids) for ids in processor.target_ids(rows["target"])
    ]


def test_rows_without_text_and_feature_sequence_have_no_length():
    data = Dataset.from_dict({"image": [None]}, features=Features({"image": Image()}))
    with pytest.raises(DataError, match="without a text or a feature sequence have no length; there is image"):
        row_lengths(data, MultimodalProcessor(), {"image": "image"})


@pytest.mark.parametrize("noise", [None, {"snr": 5}])
def test_training_groups_by_length_and_evaluation_keeps_the_order(tmp_path, noise):
    steps = [1, 9] * 40
    data = described([None] * 80, steps).select_columns(["audio", "label"])
    collator = MultimodalCollator.from_dataset(MultimodalProcessor(), data)
    config = FusionConfig(feature_sizes={"audio": 3}, hidden_size=4, num_labels=2)
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2, "use_cpu": True}
    trainer = MultimodalTrainer(
        FusionForSequenceClassification(config),
        MultimodalTrainingArguments(str(tmp_path), report_to="none", train_noise=noise, **settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
    )
    loader = trainer.get_train_dataloader()
    assert isinstance(loader.batch_sampler.sampler, LengthGroupedSampler)
    sizes = [batch["feature_mask"]["audio"].sum(1).tolist() for batch in loader]
    assert sorted(length for batch in sizes for length in batch) == sorted(steps)
    assert sum(len(set(batch)) == 1 for batch in sizes) >= 36  # of 40, and by chance half of them
    assert trainer.predict(data).label_ids.tolist() == list(data["label"])
