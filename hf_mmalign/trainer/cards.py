"""The model card that a Trainer writes."""

from ..models.modeling_base import MultimodalModelMixin
from .told import scores_of_these_weights, shaping_arguments


class ModelCardMixin:
    """Gives a [`Trainer`] this package's model card."""

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        *,
        dataset_name: str | None = None,
        model_title: str | None = None,
    ) -> None:
        """Write this package's model card to `README.md` in `output_dir`; scores of earlier weights are not in it.

        Args:
            license, dataset_name, model_title (`str`, *optional*): What the card says of licence, data and title; by
                default the training arguments of these names, and nothing where those are unset.
            language, tags, finetuned_from, dataset_tags: As in [`Trainer`]; `dataset_tags` are the data's Hub ids, and
                `finetuned_from` is by default the checkpoint that the model was loaded from.
            model_name, dataset: Stand for `model_title` and `dataset_name` where nothing else does.
            tasks, dataset_args: Without effect; the model's config tells its task.

        Raises:
            ValueError: If the model's config does not tell its problem type, because it never saw labels.
        """
        model = self.multimodal_model
        if not isinstance(model, MultimodalModelMixin):
            return super().create_model_card(
                language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
            )
        if not self.is_world_process_zero():
            return None
        from ..reporting.model_card import write_model_card  # draws too, which training need not wait for

        adapted = self.accelerator.unwrap_model(self.model) is not model
        told = {name: getattr(self.args, name, None) for name in ("license", "dataset_name", "model_title")}
        write_model_card(
            self.args.output_dir,
            model,
            results=scores_of_these_weights(self.state, self.args.load_best_model_at_end),
            dataset_name=dataset_name or told["dataset_name"] or ", ".join(_listed(dataset)) or None,
            dataset_ids=_listed(dataset_tags),
            license=license or told["license"],
            model_title=model_title or told["model_title"] or model_name,
            language=language,
            tags=[*_listed(tags), *(["peft"] if adapted else [])],
            training_arguments=shaping_arguments(self.args) if self.state.global_step else None,
            base_model=finetuned_from or model.config.name_or_path,
            repo_id=self.hub_model_id,
        )


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])
