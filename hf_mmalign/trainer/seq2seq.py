"""The Trainer of models that generate text."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from .arguments import MultimodalTrainingArguments
from .trainer import MultimodalTrainer


@dataclass
class MultimodalSeq2SeqTrainingArguments(MultimodalTrainingArguments, Seq2SeqTrainingArguments):
    """Every argument of [`MultimodalTrainingArguments`] and [`Seq2SeqTrainingArguments`]."""

    predict_with_generate: bool = field(
        default=True,
        metadata={"help": "Generate in evaluation, as BLEU and its like need; false computes the loss alone."},
    )


class MultimodalSeq2SeqTrainer(MultimodalTrainer, Seq2SeqTrainer):
    """[`MultimodalTrainer`] for models that generate: evaluation and prediction generate as [`Seq2SeqTrainer`]'s do.

    `generation_max_length` and `generation_num_beams`, where they are given, go into the model's `generation_config` and
    are saved with it, so that the model translates later as it was evaluated.
    """

    def __init__(self, model=None, args: MultimodalSeq2SeqTrainingArguments | None = None, *positional, **keywords):
        if args is None:
            args = MultimodalSeq2SeqTrainingArguments(output_dir="tmp_trainer")
        super().__init__(model, args, *positional, **keywords)
        generation = self.multimodal_model.generation_config
        if args.generation_max_length is not None:
            generation.max_length = args.generation_max_length
        if args.generation_num_beams is not None:
            generation.num_beams = args.generation_num_beams

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Loss, generated token ids `(B, T)` and labels; each component of the loss is counted, as in the other Trainer."""
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        settings = gen_kwargs or getattr(self, "_gen_kwargs", {})
        given = {name: value for name, value in inputs.items() if name != "labels"}
        tokens = self.model.generate(**given, **{key: value for key, value in settings.items() if value is not None})
        loss = None
        if "labels" in inputs:
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs).detach().mean()
        return loss, tokens, inputs.get("labels")
