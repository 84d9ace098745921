"""One class of transformers as an assembly of our components, in both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.config import require_no_problems
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.keys import Table
from orchestrator.modeling.huggingface.values import JsonObject, Values

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class of transformers as an assembly of our components.

    Attributes:
        name: Name of the class, as in ``architectures`` of their config: ``BertForPreTraining``.
        model_type: Their ``model_type``: ``bert``.
        model_config: Their config → our model config. Raises ``InputError`` for a value that has no
            counterpart here, with the value and what is supported.
        their_config: Our config → their config without ``architectures`` and ``model_type``; may
            assume that the config is one that ``model_config`` returns. Whether it is one is tested
            by going there and back.
        table: Our config → which tensor of theirs is which of ours, layers written out. A tensor
            that their file stores under a second name (tied weights) is left out.
        repeated: Names under which older files store a tensor once more, or store what is computed
            (position ids, sine tables); they are passed over when reading.
        computed: Our config → tensors that files may lack because the class makes them itself (sine
            tables, zeros), by their names.
        processor: What turns raw input into a batch: ``text``, ``image``, ``image_text``,
            ``log_mel`` or ``waveform``.
        pad_token_id: The id that padding must have, where the class reads more into it.
    """

    name: str
    model_type: str
    model_config: Callable[[Values], ModelConfig]
    their_config: Callable[[ModelConfig], JsonObject]
    table: Callable[[ModelConfig], Table]
    repeated: tuple[str, ...] = ()
    computed: Callable[[ModelConfig], dict[str, Tensor]] = lambda config: {}
    processor: str = "text"
    pad_token_id: int | None = None

    def read(self, theirs: Values, source: str) -> ModelConfig:
        """Return our config of theirs, checked.

        Args:
            theirs: Their config, complete.
            source: What messages call it.

        Raises:
            InputError: A value has no counterpart here.
            ConfigError: The values do not fit together.
        """
        try:
            ours = self.model_config(theirs)
        except ValidationError as error:
            problems = [
                Problem(".".join([error.title, *map(str, each["loc"])]), each["msg"])
                for each in error.errors()
            ]
            raise ConfigError(source, problems) from error
        require_no_problems(ours, source)
        return ours


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, advice and warnings of transformers; errors are still shown."""
    from transformers.utils import logging as their_logging

    level = their_logging.get_verbosity()
    bars = their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity(logging.ERROR)
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()
