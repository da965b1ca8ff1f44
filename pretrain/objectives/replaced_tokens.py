"""ELECTRA's replaced-token detection: the student tells sampled tokens from those of the text.

Shapes: B rows, L tokens, D hidden width, N masked tokens.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions

from pretrain.models.encoder import Features, HuggingFaceModel, Reads, real_tokens
from pretrain.models.family import BERT_FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.objectives.generator import Generator, GeneratorConfig
from pretrain.objectives.objective import Objective, ObjectiveConfig, Reduction, token_weights
from pretrain.objectives.vocabulary import IGNORED, place_weights, places_of
from pretrain.objectives.vocabulary_losses import sampled_language_loss
from pretrain.settings import Problems


class ReplacedTokensConfig(ObjectiveConfig):
    """ELECTRA (arXiv:2003.10555): a generator fills in masked tokens, the student says of each token if it is replaced.

    The generator is trained beside the student by masked language modelling and not published. The student reads its
    samples, drawn at temperature 1, in place of the masked tokens; a sample that hits the text counts as not replaced.
    No gradient goes from the student to the generator but through the embeddings that they share. Means are over all
    tokens of a step, as in the authors' code. Their masking leaves 15 % of the chosen tokens as they are and makes none
    random: `"masking": {"mask_share": 0.85, "random_share": 0.0}`. An ELECTRA student is published with its head, for
    ElectraForPreTraining; other families have no class for it and are published without.
    """

    needs_teacher = False
    samples_tokens = True
    head_family = "electra"

    type: Literal["replaced_tokens"]
    generator: GeneratorConfig = GeneratorConfig()
    discriminator_weight: Annotated[float, Field(gt=0)] = 50.0  # of the student's loss; the generator's has 1
    reduction: Reduction = "tokens"  # the mean over all tokens of a step that count, or over a row's, then rows

    @property
    def needs_masking(self) -> bool:
        """True: the masked tokens are those that are replaced."""
        return True

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the student's embeddings cannot be shared, if so."""
        if not student.family.is_bert:
            yield (
                "type",
                f"the generator shares BERT's embeddings, which a {student.model_type} model has not; wanted a student "
                f"of family {', '.join(BERT_FAMILIES)}",
            )

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "ReplacedTokens":
        """Build the objective for this student."""
        return ReplacedTokens(self, student)


class ReplacedTokens(Objective):
    """The losses `replaced_tokens/generator` and `replaced_tokens/discriminator`, and two shares that are only logged.

    `replaced_tokens/replaced` is the share of masked tokens whose sample is another token, `replaced_tokens/found` the
    share of these that the student calls replaced.
    """

    reads_labels = True

    def __init__(self, config: ReplacedTokensConfig, student: EncoderShape) -> None:
        super().__init__()
        self.config, self.weight, self.reduction = config, config.weight, config.reduction
        self.shares = {
            "replaced_tokens/discriminator": config.discriminator_weight,
            "replaced_tokens/replaced": 0.0,
            "replaced_tokens/found": 0.0,
        }
        self.teacher_reads, self.layer = Reads(), student.num_layers
        self.student_reads = Reads(hidden_states=frozenset({self.layer}))

    def attach(self, model: HuggingFaceModel) -> None:
        """Build the generator on the student's embeddings, and the head unless the student's model has it."""
        self.generator = Generator(self.config.generator, model.base_model)
        own: nn.Module | None = getattr(model, "discriminator_predictions", None)
        self.head = own or ElectraDiscriminatorPredictions(model.config)
        self.pad_token_id: int | None = model.config.pad_token_id

    def prepare(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with sampled tokens, `is_replaced` bool [B, L], and the generator's loss.

        Args:
            batch: `labels` [B, L], the text's tokens where it is masked, and `draws` [B, L], a random number for each
                token, which decides on its sample.
        """
        places = places_of(batch, "labelled_places")
        labels, draws = (batch[name].flatten().index_select(0, places) for name in ("labels", "draws"))
        shares = place_weights(batch, "labelled_places", self.reduction)
        states, weight, bias = self.generator(batch, places)
        loss, sampled = sampled_language_loss(states, weight, bias, labels, shares, draws)
        if self.pad_token_id is not None:  # a sampled padding token would shift the positions of RoBERTa's
            sampled = labels.where(sampled == self.pad_token_id, sampled)
        masked = batch["input_ids"]
        ids, text = (masked.flatten().index_copy(0, places, tokens).view_as(masked) for tokens in (sampled, labels))
        return {**batch, "input_ids": ids, "is_replaced": ids != text, "generator_loss": loss}

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms for a batch from `prepare`."""
        logits = self.head(student.hidden_states[self.layer]).float()  # [B, L]
        is_replaced = batch["is_replaced"]
        weights = token_weights(real_tokens(batch), self.reduction, batch.get("num_real"))
        errors = nn.functional.binary_cross_entropy_with_logits(logits, is_replaced.float(), reduction="none")
        num_masked, num_replaced = (batch["labels"] != IGNORED).sum(), is_replaced.sum()
        found = (logits.detach() > 0) & is_replaced
        return {
            "replaced_tokens/generator": batch["generator_loss"],
            "replaced_tokens/discriminator": (errors * weights).sum(),
            "replaced_tokens/replaced": num_replaced / num_masked.clamp(min=1),
            "replaced_tokens/found": found.sum() / num_replaced.clamp(min=1),
        }
