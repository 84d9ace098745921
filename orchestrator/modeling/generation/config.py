"""Options of generation. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

ONLY_SAMPLED = ("temperature", "top_k", "top_p", "seed")
"""Options that only act when tokens are sampled."""
ONLY_BEAMS = ("length_penalty", "early_stopping")
"""Options that only act with several beams."""


class GenerationConfig(StrictModel):
    """Decoding: greedy, sampling, or beam search."""

    max_new_tokens: PositiveInt = 64
    """Tokens that are added at most."""
    eos_token_ids: tuple[NonNegativeInt, ...] = ()
    """Tokens that end a sequence; they are part of the result."""
    start_token_id: NonNegativeInt | None = None
    """First token that a decoder reads (BART: the end token); null: the padding token (T5). A batch
    with `decoder_input_ids` has its own."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1: tokens that are in the text already become less probable (Keskar et al. 2019): a
    positive logit is divided by it, a negative one multiplied; with beams, log-probabilities."""
    stop: tuple[str, ...] = ()
    """Strings that end a sequence when they are complete in the new text; they are part of the
    result."""
    num_return_sequences: PositiveInt = 1
    """Results for each input; more than one needs sampling or beams."""
    sample: bool = False
    """Draw tokens by their probabilities."""
    temperature: PositiveFloat = 1.0
    """Divides the logits before drawing; below 1 prefers probable tokens."""
    top_k: PositiveInt | None = None
    """Draw from this many most probable tokens; null: from all."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Draw from the fewest tokens that together have this probability; null: from all."""
    seed: NonNegativeInt = 0
    """Start of the random numbers."""
    num_beams: PositiveInt = 1
    """Sequences that beam search keeps; 1: no beam search."""
    length_penalty: float = 1.0
    """Exponent of the length by which a sum of log-probabilities is divided; above 0 prefers longer
    sequences."""
    early_stopping: bool | Literal["never"] = False
    """End of beam search. true: when num_beams sequences have ended; false: when no open one
    would be better if it ended now; never: when none could become better."""

    def problems(self) -> Iterator[Problem]:
        """Yield options that contradict one another or would not be used."""
        if self.sample and self.num_beams > 1:
            yield Problem("num_beams", "cannot be combined with sample. Use one of them.")
        limit = None if self.sample else self.num_beams
        if limit is not None and self.num_return_sequences > limit:
            yield Problem(
                "num_return_sequences",
                f"{self.num_return_sequences} is more than num_beams ({limit}). Raise that, or set "
                "sample.",
            )
        if "" in self.stop:
            yield Problem("stop", "an empty string ends every text at once. Leave it out.")
        sampled = () if self.sample else ONLY_SAMPLED
        beams = () if self.num_beams > 1 else ONLY_BEAMS
        for name in (*sampled, *beams):
            if getattr(self, name) != type(self).model_fields[name].default:
                need = "sample: true" if name in ONLY_SAMPLED else "num_beams above 1"
                yield Problem(name, f"has no effect without {need}. Set that, or leave it out.")
