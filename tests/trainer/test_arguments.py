import math
from dataclasses import fields

import pytest

from hf_mmalign import MultimodalTrainingArguments

NUMBERS = [
    field.name for field in fields(MultimodalTrainingArguments) if field.init and type(field.default) in (int, float)
]
WITHOUT_DEFAULT = ["backbone_learning_rate", "early_stopping_patience", "eval_steps", "eval_delay"]


@pytest.mark.parametrize("name", sorted({*NUMBERS, *WITHOUT_DEFAULT}))
def test_every_number_is_finite(tmp_path, name):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=rf"^{name} is -?(nan|inf); it must be a finite number"):
            MultimodalTrainingArguments(str(tmp_path), **{name: value})


def test_numbers_inside_of_fields_too(tmp_path):
    for given in ({"num_cycles": math.nan}, '{"num_cycles": NaN}'):
        with pytest.raises(ValueError, match=r"lr_scheduler_kwargs\['num_cycles'\] is nan"):
            MultimodalTrainingArguments(str(tmp_path), lr_scheduler_kwargs=given)


def test_the_learning_rate_is_among_them():
    assert {"learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs", "modality_dropout"} <= set(NUMBERS)
