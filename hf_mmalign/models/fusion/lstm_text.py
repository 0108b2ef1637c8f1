"""An LSTM on token ids, for `encoders`: what transformers has no model of."""

from itertools import pairwise

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ...layers.lstm_encoder import LSTMEncoder


@strict
class LstmTextConfig(PreTrainedConfig):
    r"""Word embeddings and an LSTM: the text learner of Auto-Fusion and GAN-Fusion (section 4.2).

    Args:
        vocab_size (`int`, defaults to 30522): How many ids there are.
        embedding_size (`int`, *optional*): Width of the word embeddings, `hidden_size` by default.
        hidden_size (`int`, defaults to 256): Width of the LSTM.
        num_hidden_layers (`int`, defaults to 1): LSTMs on top of each other.
        dropout (`float`, defaults to 0.1): On what each LSTM is given.
        pad_token_id (`int`, defaults to 0): Of padding.
    """

    model_type = "mmalign_lstm"

    vocab_size: int = 30522
    embedding_size: int | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float | int = 0.1
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} of an LSTM is {getattr(self, name)}; it is at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of an LSTM is {self.dropout}; a dropout rate lies in [0, 1).")


class LstmTextModel(PreTrainedModel):
    """Token ids to one state each, forwards through the text; a text of any length.

    Args:
        config ([`LstmTextConfig`]): The configuration.
    """

    config_class = LstmTextConfig
    config: LstmTextConfig
    base_model_prefix = "lstm_text"
    main_input_name = "input_ids"

    def __init__(self, config: LstmTextConfig):
        super().__init__(config)
        size = config.embedding_size or config.hidden_size
        self.embeddings = nn.Embedding(config.vocab_size, size)
        self.dropout = nn.Dropout(config.dropout)
        widths = [size] + [config.hidden_size] * config.num_hidden_layers
        self.layers = nn.ModuleList(LSTMEncoder(*pair) for pair in pairwise(widths))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own: where transformers draws embeddings with a deviation of 0.02, an LSTM hears nothing at first.
        if isinstance(module, (nn.Embedding, nn.LSTM)):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """`(B, T)` ids and their mask to states `(B, T, hidden_size)`; those of padding are finite garbage."""
        mask = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask
        states, mask = self.embeddings(input_ids), mask.bool()
        for layer in self.layers:
            states = layer(self.dropout(states), mask)
        return BaseModelOutput(states)
