"""The Trainer of every multimodal model of the package."""

import itertools
import time

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_pt_utils import nested_gather

from ..data.collator import MultimodalCollator
from ..data.feature_statistics import statistics_of
from ..data.lengths import row_lengths, underlying_rows
from ..data.rows import rows_by_batch
from ..models.modeling_base import MultimodalModelMixin, combine_losses
from ..perturbation.modalities import perturbed
from ..perturbation.modality_dropout import ModalityDropout
from ..perturbation.noisy_data import NoisyDataset, RowNoise
from .adversary import Adversary
from .arguments import MultimodalTrainingArguments
from .calibration import further_batches
from .callbacks import LateEvaluation, NoiseDraw, ResumableEarlyStopping, TrainingClock
from .cards import ModelCardMixin
from .checkpoints import (
    ADVERSARY_FILE,
    CheckpointError,
    check_tensors,
    check_whole,
    clear_write_errors,
    last_whole_checkpoint,
    own_tensor_names,
)
from .class_spread import ClassSpread
from .gradient_shares import GradientShares
from .modality_optimizers import has_own_settings, rates_of, split_optimizer
from .modulation import Modulation
from .random_state import unchanged_random_state
from .stages import StagedTraining
from .streams import EndlessStream, stream_loader
from .token_geometry import TokenGeometry
from .unimodal_scores import UnimodalScores

_BY_LENGTH = ("group_by_length", "batch_rebalance")


class MultimodalTrainer(ModelCardMixin, Trainer):
    """[`Trainer`] that calibrates a model before its first update and logs every component of the loss.

    Takes every argument of [`Trainer`]. Beyond it:

    - Models that refer to a measured quantity (WMA's reference distances) are calibrated on the first global batch, that
      is on all micro-batches of the first optimisation step on all processes.
    - Each component of `outputs.losses` is logged as `loss_<name>`, its mean over the logging interval and all
      processes, unweighted; in evaluation as `<prefix>_loss_<name>`.
    - `backbone_learning_rate` gives the pretrained encoder a learning rate of its own, logged under that name;
      `modality_learning_rates` those of single modalities, logged as `learning_rate_<modality>`, and
      `modality_optimizers` optimizers of their own.
    - `gradient_modulation` scales the modalities' gradients, or learning rates, by what they contribute (see
      [`~trainer.modulation.Modulation`]), and logs it as `phi_<modality>`, `coefficient_<modality>`, ….
    - Of a model with `unimodal_heads` evaluation also scores each of these, as `<metric>_<modality>`, over the samples that
      have the modality. Of a classifier of `codes` (DEF + AAF), evaluation also tells how compact classes are in them, as
      `intra_class_variance_<modality>` (see [`~trainer.class_spread.ClassSpread`]).
    - Without a `processing_class`, it is the processor of a [`MultimodalCollator`], and saved with the model as such.
    - A model with critics (GAN-Fusion, DEF + AAF) is trained against them (see [`~trainer.adversary.Adversary`]), which
      are logged as `critic_loss_<term>` and saved in checkpoints only.
    - `log_gradient_shares` logs what share of the gradient each component has (see
      [`~trainer.gradient_shares.GradientShares`]), `log_token_geometry` how the modalities' tokens lie to each other (see
      [`~trainer.token_geometry.TokenGeometry`]).
    - `training_stages` trains in stages, each with losses and a schedule of its own (see
      [`~trainer.stages.StagedTraining`]).
    - `modality_dropout` takes modalities from training samples (see [`~perturbation.modality_dropout.ModalityDropout`]).
    - `train_sampling_strategy="group_by_length"` needs no column of lengths with a [`MultimodalCollator`]: tokens of texts
      and steps of feature sequences are counted (see [`~data.lengths.row_lengths`]). Evaluation keeps the rows' order.
    - `train_noise` puts noise on the raw inputs of training samples (see [`~perturbation.noisy_data.NoisyDataset`]).
    - A `datasets.IterableDataset` to train on is divided among processes and data loader workers, each row to one of them,
      and read again and again, shuffled anew if it was shuffled, until `max_steps`; a resumed run goes on in it where the
      interrupted one was.
    - `create_model_card`, and with it `push_to_hub`, writes this package's card, which claims the licence, data and title
      that the arguments of these names tell.
    - `resume_from_checkpoint=True` takes the newest *whole* checkpoint: one that was being written when the run was
      killed is passed over. One that is named must be whole and of this model. Training goes on as if it had never been
      interrupted, the count of early stopping, an evaluation still to come and `training_seconds` included.
    """

    def __init__(self, model=None, args: MultimodalTrainingArguments | None = None, *positional, **keywords):
        if args is None:
            args = MultimodalTrainingArguments(output_dir="tmp_trainer")
        # Trainer writes its `use_cache` argument into the config of models that know no cache, and from there to disk.
        model_init = keywords.get("model_init")
        config = getattr(model, "config", None)
        use_cache = getattr(config, "use_cache", None)
        super().__init__(model, args, *positional, **keywords)
        if model_init is None and config is not None:
            if use_cache is None:
                config.__dict__.pop("use_cache", None)
            else:
                config.use_cache = use_cache
        if self.processing_class is None and isinstance(self.data_collator, MultimodalCollator):
            self.processing_class = self.callback_handler.processing_class = self.data_collator.processor
        self._check_own_settings()
        self.modulation: Modulation | None = None
        if getattr(args, "gradient_modulation", "none") != "none":
            self.modulation = Modulation(args, lambda: self.multimodal_model, self.accelerator)
            self.add_callback(self.modulation)
        self.adversary: Adversary | None = None
        self.gradient_shares: GradientShares | None = None
        self.token_geometry: TokenGeometry | None = None
        if isinstance(self.multimodal_model, MultimodalModelMixin):
            if getattr(args, "log_gradient_shares", None) is not None:
                self.gradient_shares = GradientShares(args, lambda: self.multimodal_model, self.accelerator)
                self.add_callback(self.gradient_shares)
            if getattr(args, "log_token_geometry", None) is not None:
                self.token_geometry = TokenGeometry(args, lambda: self.multimodal_model)
        self.stages: StagedTraining | None = None
        if getattr(args, "training_stages", None) is not None:
            self.stages = StagedTraining(args)
            self.add_callback(self.stages)
        self.add_callback(TrainingClock())
        if getattr(args, "early_stopping_patience", None) is not None:
            self.add_callback(ResumableEarlyStopping(early_stopping_patience=args.early_stopping_patience))
        self.add_callback(LateEvaluation(self._evaluate_late))
        self._further_batches = 1  # are drawn once for calibration
        self._train_sums: dict[str, torch.Tensor] = {}
        self._train_counts: dict[str, int] = {}
        self._eval_sums: dict[str, torch.Tensor] = {}
        self._eval_counts: dict[str, int] = {}
        self._unimodal: UnimodalScores | None = None
        self._spread: ClassSpread | None = None
        self._parameter_with_rate: dict[str, nn.Parameter] = {}
        self._used_rates: dict[str, float] = {}

    @property
    def multimodal_model(self) -> nn.Module:
        """The model itself, free of Accelerate's, torch.compile's and PEFT's wrappers."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _check_own_settings(self) -> None:
        by_modality = [
            name for name in ("modality_learning_rates", "modality_optimizers") if getattr(self.args, name, None)
        ]
        for argument in by_modality:
            if not isinstance(self.multimodal_model, MultimodalModelMixin):
                raise ValueError(f"{argument} needs a MultimodalModelMixin; {type(self.model).__name__} is none.")
            for modality in getattr(self.args, argument):
                self.multimodal_model.check_modality(modality)
        if by_modality and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError(f"{by_modality[0]} has no effect on parameters that DeepSpeed or FSDP has flattened.")
        if getattr(self.args, "backbone_learning_rate", None) is not None:
            by_modality.append("backbone_learning_rate")
        if by_modality and self.optimizer is not None:
            raise ValueError(
                f"{by_modality[-1]} has no effect on an optimizer made elsewhere; give that optimizer a parameter group of "
                "its own for what it is about."
            )

    def _stream_loader(self, data: IterableDataset, noise: RowNoise | None) -> DataLoader:
        stream = EndlessStream(data, self.args.process_index, self.args.world_size, self._train_batch_size, noise)
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        return stream_loader(stream, collate, self.args, self.args.device)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """As [`Trainer.get_eval_dataloader`]. Raises ValueError for a stream in several processes."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        chosen = self.eval_dataset.get(chosen) if isinstance(chosen, str) else chosen
        if isinstance(chosen, IterableDataset) and self.args.world_size > 1:
            raise ValueError(
                "a stream is evaluated by one process only: what several have predicted could not be put together; pass a "
                "datasets.Dataset."
            )
        return super().get_eval_dataloader(eval_dataset)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Stock parameter groups, split where backbone or modalities have rates or optimizers of their own."""
        new = self.optimizer is None
        super().create_optimizer(model)
        self._prepare_adversary()
        if new and isinstance(self.args, MultimodalTrainingArguments) and has_own_settings(self.args):
            self.optimizer, self._parameter_with_rate = split_optimizer(
                self.optimizer, self.multimodal_model, self.args
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As [`Trainer.create_scheduler`]; with `training_stages`, that of each in its turn."""
        if self.stages is not None and self.lr_scheduler is None:
            self.lr_scheduler = self.stages.scheduler(optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_adversary(self) -> None:
        if self.adversary is None or self.adversary.model is not self.multimodal_model:
            self.adversary = Adversary.of(self.args, self.multimodal_model, self.accelerator)
        if self.adversary is not None:
            self.adversary.model.attach_critics(self.adversary.critics)

    @property
    def training_seconds(self) -> float:
        """Seconds that training took, over all sessions of a run that was interrupted and resumed."""
        return self.state.stateful_callbacks[TrainingClock.__name__]["attributes"]["seconds"]

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional, **keywords):
        """As [`Trainer.train`]. Raises CheckpointError, a ValueError, for a checkpoint that is not whole or not of this
        model, OSError if a checkpoint cannot be written."""
        # DeepSpeed's and FSDP's checkpoints are folders of their own kind, which their libraries check.
        if resume_from_checkpoint and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            resume_from_checkpoint = self._usable_checkpoint(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, *positional, **keywords)
        finally:
            if self.adversary is not None:
                self.adversary.model.attach_critics(None)

    def _usable_checkpoint(self, asked: str | bool) -> str:
        needs = {"needs_scaler": getattr(self.accelerator, "scaler", None) is not None}
        model = self.multimodal_model
        needs["needs_adversary"] = isinstance(model, MultimodalModelMixin) and bool(model.build_critics())
        if asked is True:
            checkpoint = last_whole_checkpoint(self.args.output_dir, self.args.world_size, **needs)
            if checkpoint is None:
                raise CheckpointError(f"No whole checkpoint to resume from in {self.args.output_dir}.")
        else:
            checkpoint = str(asked)
            check_whole(checkpoint, self.args.world_size, **needs)
        # Trainer only warns where a tensor is missing, and trains on with what was drawn at random.
        check_tensors(checkpoint, _saved_tensors(self.accelerator.unwrap_model(self.model)))
        return checkpoint

    def get_train_dataloader(self) -> DataLoader:
        """As [`Trainer.get_train_dataloader`]; with `train_noise`, of samples with noise on their raw inputs. A
        `datasets.IterableDataset` goes round and round until `max_steps`, in another order each time if it was shuffled."""
        settings, clean, noise = getattr(self.args, "train_noise", None), self.train_dataset, None
        if settings is not None:
            kinds = self.multimodal_model.config.modality_kinds
            seed, fitted = self.args.data_seed or self.args.seed, statistics_of(self.data_collator)
            noise = RowNoise.of(settings, kinds, seed, statistics=fitted)
        if isinstance(clean, IterableDataset):
            return self._stream_loader(clean, noise)
        if noise is None or clean is None:
            return super().get_train_dataloader()
        noisy = NoisyDataset(rows_by_batch(clean), noise)
        self.remove_callback(NoiseDraw)  # of an earlier call
        self.add_callback(NoiseDraw(noisy))
        self.train_dataset = noisy
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = clean

    def _get_dataloader(self, dataset, *positional, **keywords) -> DataLoader:
        if (sampler_of := keywords.get("sampler_fn")) is not None:
            keywords["sampler_fn"] = lambda rows: sampler_of(dataset)  # which may look at a column of lengths
        return super()._get_dataloader(rows_by_batch(dataset), *positional, **keywords)

    def _get_train_sampler(self, train_dataset=None):
        rows = underlying_rows(self.train_dataset if train_dataset is None else train_dataset)
        column = self.args.length_column_name
        if self.args.train_sampling_strategy not in _BY_LENGTH or not isinstance(rows, Dataset):
            return super()._get_train_sampler(train_dataset)
        if column not in rows.column_names and isinstance(collator := self.data_collator, MultimodalCollator):
            lengths = row_lengths(rows, collator.processor, collator.modalities)
            rows = Dataset.from_dict({column: lengths})
        return super()._get_train_sampler(rows)

    def _get_eval_sampler(self, eval_dataset):
        # Trainer evaluates by length as well, and would tell predictions in another order than that of the rows.
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = strategy

    def _save_checkpoint(self, *positional, **keywords):
        if self.modulation is not None:
            self.modulation.save(self.state)
        # So that the checkpoint tells of a lost file itself, to those who do not know the model.
        self.state.stateful_callbacks.pop(ADVERSARY_FILE, None)
        if self.adversary is not None:
            self.state.stateful_callbacks[ADVERSARY_FILE] = {"critics": list(self.adversary.critics)}
        model = self.accelerator.unwrap_model(self.model)
        with clear_write_errors(f"{self.args.output_dir}/checkpoint-{self.state.global_step}"), own_tensor_names(model):
            super()._save_checkpoint(*positional, **keywords)

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.adversary is not None and self.args.should_save:
            self.adversary.save(output_dir)
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.adversary is not None and checkpoint is not None:
            self.adversary.load(checkpoint)

    def _run_epoch(self, *positional, **keywords):
        # What a run has come to the end of, by its steps or by early stopping, a resumed one must not go on with.
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if self.control.should_training_stop:
            return
        stream = getattr(keywords.get("train_dataloader"), "dataset", None)
        if isinstance(stream, EndlessStream) and keywords.get("resume_from_checkpoint") is not None:
            # Trainer passes over these batches one by one, so there is no need to make them.
            stream.skipped_batches = 0 if self.args.ignore_data_skip else keywords["steps_trained_in_current_epoch"]
        super()._run_epoch(*positional, **keywords)

    def _evaluate_late(self) -> None:
        self._determine_best_metric(self._evaluate(None, None), None)

    def evaluate(self, *positional, **keywords):
        # Training goes on as if there had been no evaluation, so that it can be resumed from either side of one.
        with unchanged_random_state():
            return super().evaluate(*positional, **keywords)

    def predict(self, *positional, **keywords):
        with unchanged_random_state():
            return super().predict(*positional, **keywords)

    def end(self) -> None:
        """Finish the trackers and the process group: the last call of a script that ran in several processes."""
        # Gloo's threads drop the last tensors under the interpreter's lock, and older PyTorch joins them while holding it.
        time.sleep(0.2 if self.args.world_size > 1 else 0)
        self.accelerator.end_training()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        model = self.multimodal_model
        if isinstance(model, MultimodalModelMixin) and batch_samples and "labels" in batch_samples[0]:
            model.problem_type_of(batch_samples[0]["labels"])
        if isinstance(model, MultimodalModelMixin) and model.needs_calibration:
            # What is absent from all of them is measured in the batch in which it comes.
            more, self._further_batches = self._further_batches * (model.calibration_batches - 1), 0
            further = further_batches(self.train_dataset, self.data_collator, self.args, more) if more else ()
            model.calibrate(self._prepare_inputs(batch) for batch in itertools.chain(batch_samples, further))
        # The rates of the step to come: when that is logged, the scheduler has moved on.
        self._used_rates = dict(rates_of(self.optimizer, self._parameter_with_rate))
        return batch_samples, num_items_in_batch

    def training_step(self, model, inputs, num_items_in_batch=None):
        base, hooks = self.multimodal_model, []
        if getattr(self.args, "modality_dropout", 0.0) > 0 and isinstance(base, MultimodalModelMixin):
            hooks.append(ModalityDropout(self.args.modality_dropout))
        if self.modulation is not None:
            hooks.append(self.modulation.hook)
        with perturbed(base, *hooks):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.modulation is not None and self.accelerator.sync_gradients:
            self.modulation.add_noise(self.state.global_step)
        if self.adversary is not None and self.accelerator.sync_gradients:
            self.adversary.step(self.state.global_step)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        own_task_loss = self.label_smoother is not None or self.compute_loss_func is not None
        if own_task_loss and "labels" in inputs and isinstance(self.multimodal_model, MultimodalModelMixin):
            loss, outputs = self._loss_with_own_task(model, inputs, num_items_in_batch)
        else:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            if self.stages is not None and model.training and isinstance(outputs, dict) and outputs.get("losses"):
                loss = combine_losses(outputs["losses"], self._loss_weights(outputs["losses"], model.training))
        if isinstance(outputs, dict) and outputs.get("losses"):
            told = {f"loss_{name}": value for name, value in outputs["losses"].items()}
            # No scores: evaluation's metrics go into tables and cards.
            told |= (outputs.get("diagnostics") or {}) if model.training else {}
            self._count(told, outputs["logits"].shape[0], training=model.training)
            if self.modulation is not None and model.training:
                self.modulation.observe(inputs, outputs)
            if self.adversary is not None and model.training:
                self.adversary.collect(outputs)
            if self.gradient_shares is not None and model.training:
                losses = outputs["losses"]
                self.gradient_shares.measure(losses, self._loss_weights(losses, training=True), self.state.global_step)
            if self.token_geometry is not None and model.training:
                self.token_geometry.measure(inputs, self.state.global_step)
            if self._unimodal is not None and not model.training:
                self._unimodal.add(outputs)
            if self._spread is not None and not model.training:
                self._spread.add(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def _loss_with_own_task(self, model, inputs, num_items_in_batch):
        """Label smoothing or the user's `compute_loss_func` in the place of the task loss, regularisers kept.

        Trainer itself would call the model without labels and so lose every other component.
        """
        outputs, labels = model(**inputs), inputs["labels"]
        if self.compute_loss_func is not None:
            task = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
            # Trainer takes what that function returns as normalised over all micro-batches; our components are not.
            share = 1.0 / self.current_gradient_accumulation_steps if model.training else 1.0
        else:
            task, share = self.label_smoother(outputs, labels), 1.0
        components = {name: value * share for name, value in outputs["losses"].items() if name != "task"}
        outputs["losses"] = {**outputs["losses"], "task": task}
        losses = {"task": task, **components}
        return combine_losses(losses, self._loss_weights(losses, model.training)), outputs

    def _loss_weights(self, losses: dict[str, torch.Tensor], training: bool) -> dict[str, float]:
        weights = self.multimodal_model.config.loss_weights
        if self.stages is None or not training:
            return weights
        return self.stages.weights(self.state.global_step, losses, weights)

    def _count(self, told: dict[str, torch.Tensor], size: int, training: bool) -> None:
        """Add a batch's values to the running means: by batch in training, as Trainer's own loss; else by sample."""
        sums, counts = (self._train_sums, self._train_counts) if training else (self._eval_sums, self._eval_counts)
        weight = 1 if training else size
        for name, value in told.items():
            sums[name] = sums.get(name, 0.0) + value.detach() * weight
            counts[name] = counts.get(name, 0) + weight

    def _means(self, sums: dict[str, torch.Tensor], counts: dict[str, int], prefix: str) -> dict[str, float]:
        """The means over all processes by log name; empties the sums."""
        means = {}
        for name in list(sums):
            mean = sums.pop(name) / counts.pop(name)
            means[f"{prefix}{name}"] = nested_gather(mean, self.args.parallel_mode).mean().item()
        return means

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # the training log; evaluation logs "eval_loss"
            logs |= self._means(self._train_sums, self._train_counts, "")
            logs |= self.modulation.logs() if self.modulation is not None else {}
            logs |= self.gradient_shares.logs() if self.gradient_shares is not None else {}
            logs |= self.token_geometry.logs() if self.token_geometry is not None else {}
            logs |= self.adversary.logs() if self.adversary is not None else {}
        if "learning_rate" in logs:
            logs |= self._used_rates
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader, description, *positional, metric_key_prefix="eval", **keywords):
        self._eval_sums, self._eval_counts = {}, {}
        self._unimodal, self._spread = self._new_unimodal_scores(), self._new_class_spread()
        hooks = [] if self._unimodal is None else [self._unimodal.hook]
        with perturbed(self.multimodal_model, *hooks):
            output = super().evaluation_loop(
                dataloader, description, *positional, metric_key_prefix=metric_key_prefix, **keywords
            )
        output.metrics.update(self._means(self._eval_sums, self._eval_counts, f"{metric_key_prefix}_"))
        if self._unimodal is not None:
            own = self._unimodal.metrics(self.compute_metrics, output.label_ids)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in own.items()})
            self._unimodal = None
        if self._spread is not None:
            output.metrics.update(
                {f"{metric_key_prefix}_{name}": value for name, value in self._spread.metrics().items()}
            )
            self._spread = None
        return output

    def _new_class_spread(self) -> ClassSpread | None:
        model = self.multimodal_model
        if not isinstance(model, MultimodalModelMixin) or model.config.generates or self.args.n_gpu > 1:
            return None
        return ClassSpread(model.config.modalities, model.config.num_labels, self.accelerator.gather_for_metrics)

    def _new_unimodal_scores(self) -> UnimodalScores | None:
        model = self.multimodal_model
        if not isinstance(model, MultimodalModelMixin) or not model.has_unimodal_heads:
            return None
        # Metrics that see a batch at a time have a state, and DataParallel's replicas have hooks of their own.
        if self.compute_metrics is None or self.args.batch_eval_metrics or self.args.n_gpu > 1:
            return None
        return UnimodalScores(model.config.modalities, self.accelerator.gather_for_metrics)


def _saved_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of this model holds: all its tensors, or with PEFT those of the default adapter."""
    if not hasattr(model, "get_base_model"):
        ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
        return {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}
    if "default" not in model.peft_config:
        return {}
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)
