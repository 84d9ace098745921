"""Generation of text: the public function, and the choice of each token.

Legend: B inputs or rows, R results for each, T new tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.config import require_no_problems
from orchestrator.errors import InputError
from orchestrator.modeling.generation.beams import Beams
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.continuation import Continuation, Decode, Stops, require_room
from orchestrator.modeling.interfaces import Batch
from orchestrator.modeling.model import Model

Watch = Callable[[Tensor, Tensor], None]


def drawable(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Apply temperature, then top k, then top p.

    Args:
        logits: [B, V], fp32.
        config: The three options.

    Returns:
        Logits [B, V], -inf where a token may not be drawn.
    """
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    return logits if config.top_p is None else top_p(logits, config.top_p)


def top_k(logits: Tensor, count: int) -> Tensor:
    """Keep the ``count`` most probable tokens (Fan et al. 2018), and those equal to the last."""
    lowest = logits.topk(min(count, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def top_p(logits: Tensor, share: float) -> Tensor:
    """Keep the fewest most probable tokens that together have ``share`` (Holtzman et al. 2020)."""
    values, order = logits.sort(dim=-1)
    removed = values.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - share
    removed[..., -1] = False
    return logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)


def penalized(logits: Tensor, text: Continuation, penalty: float) -> Tensor:
    """Make tokens that a row has already less probable (Keskar et al. 2019, section 4.1).

    As transformers' ``RepetitionPenaltyLogitsProcessor``, but that padding does not count.

    Args:
        logits: After each row, or their log-probabilities, [B, V].
        text: The rows; with a decoder, what it wrote.
        penalty: 1 changes nothing.
    """
    if penalty == 1.0:
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool)
    # Padding points at the row's last token, which is real.
    tokens = torch.where(text.mask.bool(), text.tokens, text.tokens[:, -1:])
    seen.scatter_(1, tokens, torch.ones_like(tokens, dtype=torch.bool))
    less = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, less, logits)


class Generated(NamedTuple):
    """Generated sequences.

    Attributes:
        tokens: New tokens, the end token included, then padding, [B * R, T]; results of one input
            stand together, the best one first if there are beams.
        scores: Summed log-probabilities of the tokens [B * R]; of beam search divided by length **
            length_penalty; of sampling those of the distribution that was drawn from.
        lengths: Number of new tokens without padding, [B * R].
    """

    tokens: Tensor
    scores: Tensor
    lengths: Tensor


@torch.no_grad()
def generate(
    model: Model,
    batch: Batch,
    config: GenerationConfig,
    *,
    target: str = "lm",
    cached: bool = True,
    decode: Decode | None = None,
    watch: Watch | None = None,
) -> Generated:
    """Continue each sequence of a batch until it ends or has ``max_new_tokens`` more.

    Dropout is off while it runs. Rows do not influence one another, except that sampled ones share
    one stream of random numbers.

    Args:
        model: A language model, or an encoder-decoder.
        batch: Its inputs, without labels; text may be padded on either side.
        config: How to choose tokens.
        target: Name of the target that predicts the next token.
        cached: Keep keys and values rather than compute them again for every token.
        decode: New tokens of a row → text; needed for ``config.stop``.
        watch: Receives the new token of each row, [B * R], as soon as it is chosen, and whether
            the row had ended before it. Not called with beams, which choose at the end.

    Raises:
        ConfigError: Options contradict one another.
        InputError: The model has no such target, the batch lacks an input, or the text and the new
            tokens do not fit the model's positions.
    """
    require_no_problems(config, "generation")
    _require_lm(model, batch, target)
    if config.stop and decode is None:
        raise InputError("stop: strings are found in text; give decode, or use eos_token_ids.")
    stops = Stops(config.stop, decode)
    pad = model.config.pad_token_id
    start = pad if config.start_token_id is None else config.start_token_id
    training = model.training
    model.eval()
    try:
        text = Continuation(model, batch, start=start, target=target, cached=cached)
        require_room(model, text.tokens.shape[1], config.max_new_tokens)
        if config.num_beams > 1:
            return _search(text, config, pad, stops)
        return _walk(text, config, pad, stops, watch)
    finally:
        model.train(training)


def _require_lm(model: Model, batch: Batch, target: str) -> None:
    """Refuse a model that does not predict the next token, or a batch without text."""
    found = [each.name for each in model.config.target if each.type_name() == "lm"]
    if target not in found:
        raise InputError(
            f"{target!r} is not a target that predicts the next token; the model has "
            f"{', '.join(found) or 'none'}."
        )
    if model.decoder is None and "input_ids" not in batch:
        raise InputError(f"There is no text to continue: the batch has {', '.join(batch)}.")


def _walk(
    text: Continuation, config: GenerationConfig, pad: int, stops: Stops, watch: Watch | None
) -> Generated:
    """Take one token after the other: the most probable one, or a drawn one."""
    logits = text.start()
    device = logits.device
    if config.num_return_sequences > 1:
        rows = torch.arange(len(logits), device=device)
        rows = rows.repeat_interleave(config.num_return_sequences)
        text.select(rows)
        logits = logits.index_select(0, rows)
    generator = torch.Generator(device).manual_seed(config.seed)
    eos = torch.tensor(config.eos_token_ids, dtype=torch.long, device=device)
    ended = torch.zeros(len(logits), dtype=torch.bool, device=device)
    scores = torch.zeros(len(logits), device=device)
    lengths = torch.zeros(len(logits), dtype=torch.long, device=device)
    tokens: list[Tensor] = []
    while True:
        logits = penalized(logits, text, config.repetition_penalty)
        if config.sample:
            logits = drawable(logits, config)
            token = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        gained = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        scores = scores + gained.masked_fill(ended, 0.0)
        token = token.masked_fill(ended, pad)
        tokens.append(token)
        lengths = lengths + (~ended).long()
        if watch is not None:
            watch(token, ended)
        ended = ended | torch.isin(token, eos) | stops(torch.stack(tokens, 1))
        if len(tokens) == config.max_new_tokens or bool(ended.all()):
            return Generated(torch.stack(tokens, 1), scores, lengths)
        logits = text.extend(token)


def _search(text: Continuation, config: GenerationConfig, pad: int, stops: Stops) -> Generated:
    """Search with beams; the text before them is read once for each input."""
    logits = text.start()
    inputs = torch.arange(len(logits), device=logits.device)
    rows = inputs.repeat_interleave(config.num_beams)
    text.select(rows)
    logits = logits.index_select(0, rows)
    beams = Beams(len(inputs), config, pad, logits.device, stops)
    while True:
        scores = penalized(logits.log_softmax(dim=-1), text, config.repetition_penalty)
        rows, tokens, more = beams.step(scores)
        if not more:
            break
        text.select(rows, same_inputs=True)
        logits = text.extend(tokens)
    found, best, lengths = beams.best()
    return Generated(found[:, : int(lengths.max())], best, lengths)
