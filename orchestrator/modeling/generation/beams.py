"""Beam search.

The stopping rules and the order of candidates are those of transformers' ``generate``, so that
results can be compared; see ``GenerationConfig.early_stopping``.

Legend: B inputs, K beams, C candidates, V vocabulary, T new tokens so far, M most new tokens.
"""

import torch
from torch import Tensor

from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.continuation import Stops

NEVER = -1e9
"""Score of what cannot be chosen."""


class Beams:
    """Open sequences that are continued, and the best ones that have ended.

    Attributes:
        tokens: New tokens of the open sequences, [B, K, T].
        scores: Their summed log-probabilities, [B, K].
        ended: New tokens of the best ended sequences, padded, [B, K, M].
        ended_scores: Their scores, divided by length ** length_penalty, [B, K].
        ended_lengths: Their number of tokens, [B, K].
        has_ended: Which of them are there, [B, K].
        open: Inputs whose ended sequences may still become better, [B, 1].
    """

    def __init__(
        self, rows: int, config: GenerationConfig, pad: int, device: torch.device, stops: Stops
    ) -> None:
        self.config, self.pad, self.stops = config, pad, stops
        shape = (rows, config.num_beams)
        self.eos = torch.tensor(config.eos_token_ids, dtype=torch.long, device=device)
        self.tokens = torch.empty(*shape, 0, dtype=torch.long, device=device)
        self.scores = torch.full(shape, NEVER, device=device)
        self.scores[:, 0] = 0.0  # at first all beams are the same sequence
        self.ended = torch.full((*shape, config.max_new_tokens), pad, device=device)
        self.ended_scores = torch.full(shape, NEVER, device=device)
        self.ended_lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.has_ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self.open = torch.ones(rows, 1, dtype=torch.bool, device=device)

    def step(self, log_probabilities: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Choose the next tokens.

        Args:
            log_probabilities: After each open sequence, [B * K, V].

        Returns:
            Which rows are continued and by which tokens, [B * K] each, and whether there is
            anything left to do.
        """
        beams = self.config.num_beams
        top, parents, tokens = self._candidates(log_probabilities)
        sequences = torch.cat([_pick(self.tokens, parents), tokens[..., None]], dim=2)
        ends = torch.isin(tokens, self.eos) | (sequences.shape[2] == self.config.max_new_tokens)
        ends = ends | self.stops(sequences.flatten(0, 1)).view(ends.shape)
        self._end(sequences, top, ends)
        self.scores, chosen = top.masked_fill(ends, NEVER).topk(beams)
        self.tokens = _pick(sequences, chosen)
        self._close()
        first = torch.arange(len(top), device=top.device)[:, None] * beams
        rows = (first + parents.gather(1, chosen)).flatten()
        settled = bool(self.has_ended.all()) and self.config.early_stopping is True
        more = bool(self.open.any()) and not settled and not bool(ends.all())
        return rows, tokens.gather(1, chosen).flatten(), more

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B * R, M], scores and lengths [B * R] of the best of each input."""
        count = self.config.num_return_sequences
        found = (self.ended, self.ended_scores, self.ended_lengths)
        tokens, scores, lengths = (each[:, :count].flatten(0, 1) for each in found)
        return tokens, scores, lengths

    def _candidates(self, log_probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, beam and token of the best continuations, [B, C], the best one first.

        So many that K of them go on, whatever ends.
        """
        rows, beams = self.scores.shape
        vocabulary = log_probabilities.shape[-1]
        total = log_probabilities.view(rows, beams, vocabulary) + self.scores[..., None]
        count = max(2, 1 + len(self.eos)) * beams
        top, index = total.flatten(1).topk(min(count, beams * vocabulary))
        return top, index // vocabulary, index % vocabulary

    def _end(self, sequences: Tensor, top: Tensor, ends: Tensor) -> None:
        """Put candidates [B, C, T] that end, and are among the best K, with the ended ones."""
        beams, length = self.config.num_beams, sequences.shape[2]
        ends = ends & (torch.arange(ends.shape[1], device=ends.device) < beams) & self.open
        if self.config.early_stopping is True:
            ends = ends & ~self.has_ended.all(dim=1, keepdim=True)
        scores = (top / length**self.config.length_penalty).masked_fill(~ends, NEVER)
        missing = self.config.max_new_tokens - length
        padded = torch.nn.functional.pad(sequences, (0, missing), value=self.pad)
        merged = torch.cat([self.ended_scores, scores], dim=1)
        self.ended_scores, chosen = merged.topk(beams)
        self.ended = _pick(torch.cat([self.ended, padded], dim=1), chosen)
        lengths = torch.full_like(chosen[:, :1], length).expand(-1, ends.shape[1])
        self.ended_lengths = torch.cat([self.ended_lengths, lengths], dim=1).gather(1, chosen)
        self.has_ended = torch.cat([self.has_ended, ends], dim=1).gather(1, chosen)

    def _close(self) -> None:
        """Close inputs whose best open sequence cannot beat the worst ended one."""
        config = self.config
        longest = config.early_stopping == "never" and config.length_penalty > 0.0
        length = config.max_new_tokens if longest else self.tokens.shape[2]
        possible = self.scores[:, :1] / length**config.length_penalty
        worst = self.ended_scores.min(dim=1, keepdim=True).values
        worst = torch.where(self.has_ended, worst, NEVER)
        self.open = self.open & (possible > worst).any(dim=1, keepdim=True)


def _pick(sequences: Tensor, index: Tensor) -> Tensor:
    """Return sequences [B, N, T] at ``index`` [B, M] → [B, M, T]."""
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[2]))
