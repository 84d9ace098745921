"""``orchestrator generate``: a package and a prompt in, text out, shown while it is written."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from orchestrator.config import JobResult
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.sources.lines import well_formed
from orchestrator.errors import InputError
from orchestrator.finetuning.generating.config import GenerateConfig
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.generate import generate
from orchestrator.modeling.huggingface.importing import original_of
from orchestrator.modeling.package import load_model
from orchestrator.modeling.transfer import to_device
from orchestrator.zoo import Zoo

if TYPE_CHECKING:
    from orchestrator.zoo import Package

Show = Callable[[str], None]
"""Receives the new text of a prompt, piece by piece."""
UNFINISHED: Final = "\ufffd"
"""Stands for bytes of a character whose other bytes are in the next token."""


def run(config: GenerateConfig) -> JobResult:
    """Write the continuation of every prompt; the result holds the texts.

    Raises:
        InputError: There is no such package, or it writes no text.
    """
    torch.set_num_threads(config.threads)
    package = Zoo(config.run.zoo).get(config.package)
    writer = Writer(package, target=config.target, device=config.device)
    texts = []
    for prompt in config.prompts:
        show = _stream if config.stream else None
        if show is not None:
            show(prompt if writer.continues else "")
        texts += writer.write(prompt, config.options, show)
        if show is not None:
            show("\n")
    return JobResult(package=package.ref, metrics={"texts": list(texts)})


def check(config: GenerateConfig) -> str:
    """Describe what would be written."""
    package = Zoo(config.run.zoo).get(config.package)
    writer = Writer(package, target=config.target, device="cpu")
    how = "continues" if writer.continues else "answers"
    count = len(config.prompts)
    return f"{package.ref} {how} {count} prompts with up to {config.max_new_tokens} tokens each"


class Writer:
    """A loaded package that writes text.

    Args:
        package: From ``Zoo.get``.
        target: Head that predicts the next token.
        device: Where the model runs.

    Raises:
        InputError: The package has no tokenizer, no such head, or no weights that torch runs.
    """

    def __init__(self, package: "Package", *, target: str = "lm", device: str = "cpu") -> None:
        if package.kind == "quantized" or not package.has("tokenizer.json"):
            raise InputError(f"{package.ref} writes no text: it has no tokenizer or float weights.")
        self.model = load_model(package.path, device=device).eval()
        lm = [each.name for each in self.model.config.target if each.type_name() == "lm"]
        if target not in lm:
            raise InputError(
                f"{package.ref} has no head {target!r} that predicts the next token; it has "
                f"{', '.join(lm) or 'none'}."
            )
        self._target, self._device = target, device
        self._processor = TextProcessor.load(package.path)
        self._defaults = self._ends(package)

    @property
    def continues(self) -> bool:
        """Whether prompts are continued; else an encoder reads them and a decoder answers."""
        return self.model.decoder is None

    def write(self, prompt: str, config: GenerationConfig, show: Show | None = None) -> list[str]:
        """Return the new texts for a prompt, without the stop string that ends them.

        Args:
            prompt: The text.
            config: How tokens are chosen.
            show: Receives the text while it is written; with beams or several results, at the end.

        Raises:
            ConfigError: Options contradict one another.
            InputError: Prompt and new tokens do not fit the model.
        """
        settings = self._defaults | config.model_dump(exclude_unset=True, exclude_defaults=True)
        options = GenerationConfig(**settings)
        single = options.num_beams == 1 and options.num_return_sequences == 1
        stream = None if show is None or not single else _Stream(self._decode, options, show)
        found = generate(
            self.model,
            self._batch(well_formed(prompt)),
            options,
            target=self._target,
            decode=self._decode,
            watch=None if stream is None else stream.watch,
        )
        results = zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)
        texts = [_before_stop(self._decode(ids[:size]), options.stop) for ids, size in results]
        if stream is not None:
            stream.finish(texts[0])
        elif show is not None:
            show("\n".join(texts))
        return texts

    def _batch(self, prompt: str) -> dict[str, Tensor]:
        if not self.continues:
            arrays = self._processor.arrays([prompt], None, None, "right")
            tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
            return to_device(tensors, self._device)
        encoding = self._processor.tokenizer.encode(prompt, add_special_tokens=True)
        special = encoding.special_tokens_mask
        last = max((place for place, flag in enumerate(special) if not flag), default=0)
        # What the tokenizer puts behind a text would end it.
        ids = torch.tensor([encoding.ids[: last + 1]])
        return to_device({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, self._device)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(ids)

    def _ends(self, package: "Package") -> dict[str, object]:
        """Return the tokens that begin and end a text, as the package says."""
        special = self._processor.settings.special
        original = original_of(package.path)
        values = {} if original is None else original[1]
        ends = values.get("eos_token_id", special.get("eos", special.get("sep")))
        ends = ends if isinstance(ends, list) else [ends]
        found: dict[str, object] = {
            "eos_token_ids": tuple(end for end in ends if isinstance(end, int))
        }
        start = values.get("decoder_start_token_id")
        return found | ({"start_token_id": start} if isinstance(start, int) else {})


class _Stream:
    """Shows text as soon as it cannot change any more."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], options: GenerationConfig, show: Show
    ) -> None:
        self._decode, self._show = decode, show
        self._ids: list[int] = []
        self._shown = 0
        # The beginning of a stop string must not be shown before it is known not to be one.
        self._stops = options.stop
        self._held = max((len(string) - 1 for string in options.stop), default=0)

    def watch(self, tokens: Tensor, ended: Tensor) -> None:
        """Take the next token."""
        if not bool(ended[0]):
            self._ids.append(int(tokens[0]))
            text = self._decode(self._ids).rstrip(UNFINISHED)
            shown = _before_stop(text, self._stops)
            self._advance(text[: len(text) - self._held] if shown == text else shown)

    def finish(self, text: str) -> None:
        """Show the rest."""
        self._advance(text)

    def _advance(self, text: str) -> None:
        if len(text) > self._shown:
            self._show(text[self._shown :])
            self._shown = len(text)


def _before_stop(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first stop string in it."""
    places = [text.find(stop) for stop in stops]
    found = [place for place in places if place >= 0]
    return text[: min(found)] if found else text


def _stream(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
