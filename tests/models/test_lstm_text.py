"""The LSTM on token ids, as an encoder of late fusion."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hf_mmalign import FusionConfig, FusionForSequenceClassification
from tests.tiny import TOKENS, text_batch

LSTM = {"model_type": "mmalign_lstm", "vocab_size": 60, "embedding_size": 5, "hidden_size": 8}


def classifier(**fields):
    torch.manual_seed(0)
    config = FusionConfig(encoders={"text": LSTM | fields}, num_labels=3, dropout=0.0, **TOKENS)
    return FusionForSequenceClassification(config), text_batch([7, 4, 0, 6])


def test_it_is_embeddings_and_pytorch_s_lstm_on_the_words_alone():
    model, batch = classifier(num_hidden_layers=2)
    tokens = model.eval().embed_modalities(**batch)["text"].tokens
    layers = model.encoders["text"].layers
    stack = nn.LSTM(5, 8, 2, batch_first=True)
    stack.load_state_dict(
        {f"{key[:-1]}{i}": v for i, layer in enumerate(layers) for key, v in layer.lstm.state_dict().items()}
    )
    for row, length in ((0, 7), (1, 4), (3, 6)):
        expected, _ = stack(model.encoders["text"].embeddings(batch["input_ids"][row, :length]))
        assert_close(tokens[row, :length], expected)


def test_it_is_saved_with_the_model_and_takes_texts_of_any_length(tmp_path):
    model, batch = classifier()
    model.eval().save_pretrained(tmp_path)
    again = FusionForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (again.config.encoders["text"].model_type, again.config.max_position_embeddings) == ("mmalign_lstm", None)
    assert_close(again(**batch).logits, model(**batch).logits)
    assert again(**text_batch([700, 3])).logits.isfinite().all()


def test_a_weight_s_size_that_cannot_be_is_refused():
    for fields, message in (
        ({"hidden_size": 0}, "hidden_size of an LSTM is 0"),
        ({"dropout": 1.0}, "dropout of an LSTM"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(**fields)
