"""Conversations for supervised fine-tuning: the loss is on what the assistant says, nothing else.

Ouyang et al., "InstructGPT" (NeurIPS 2022), section 3.4, step 1; TencentPretrain's ``llm_sft``. A
causal model reads the whole conversation; labels are the next tokens where these belong to an
answer, its end included, and -100 elsewhere, as with ``transformers`` and labels of -100 on the
prompt. All answers of a conversation are learned.

A chat template (of the tokenizer, or a file) says how messages become one text. The answers are
found by rendering the conversation up to each of them, which holds for every template that only
appends; one that rewrites earlier messages is refused. Without a template a conversation is its
messages, tokenized apart: what is asked as a prompt, an answer with its end token, as
``orchestrator generate`` reads and writes them.

Deviation: TencentPretrain masks by the length of the tokenized prompt, which may be another number
of tokens than the prompt has before its answer.

Shapes: B batch, S tokens of the longest conversation.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.processors.readings import answer_ids, prompt_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import count_unknown, unknown_note
from orchestrator.data.rows.forms.chat import ANSWERS, messages_of
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch, SampleInputs, stack
from orchestrator.data.samples.kinds import SftConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.errors import InputError

logger = logging.getLogger(__name__)

TEMPLATE_KEY, TEMPLATE_FILE = "chat_template", "chat_template.jinja"
"""A template in ``tokenizer_config.json``, and as a file beside it, which comes first."""
Message = dict[str, str]
Marked = tuple[IntArray, BoolArray]
"""Tokens of a conversation, and which of them an assistant says."""


class ChatSamples:
    """Conversations, tokenized once: ``labels.<name>`` [B, S], the next tokens of answers."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor,
        target_name: str = "lm",
        max_length: int | None = None,
        template: str | None = None,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: Messages in ``labels``, see ``rows.forms.chat``.
            processor: The tokenizer.
            target_name: Target that is trained.
            max_length: Limit in tokens; None takes the processor's. Of a longer conversation the
                last tokens are read.
            template: Chat template in Jinja; None: messages are tokenized apart.

        Raises:
            InputError: There are no rows, or a template cannot be rendered or rewrites messages.
        """
        if not len(rows):
            raise InputError("the data set has no rows. Check the source and its cap.")
        limit = processor.max_length if max_length is None else max_length
        self._pad, self._name = processor.settings.pad_id, f"labels.{target_name}"
        self.parts = (len(rows),)
        chats = [list(messages_of(label)) for label in rows.labels]
        if template is None:
            marked = [_apart(processor, chat) for chat in chats]
        else:
            marked = [_rendered(processor, chat, template) for chat in chats]
        count = count_unknown(processor, [ids.tolist() for ids, _ in marked])
        note = unknown_note(count / max(sum(len(ids) for ids, _ in marked), 1))
        if note is not None:  # a template may have words that no message has
            logger.warning("conversations: %s", note)
        longer = sum(len(ids) > limit + 1 for ids, _ in marked)
        if longer:
            logger.warning(
                "%d of %d conversations are cut to their last %d tokens. Raise data.block_size.",
                *(longer, len(marked), limit),
            )
        # The last token of a sequence is only a label.
        self._marked = [(ids[-limit - 1 :], said[-limit - 1 :]) for ids, said in marked]

    @classmethod
    def build(cls, config: SftConfig, inputs: SampleInputs) -> "ChatSamples":
        """Build the samples of a split."""
        processor = inputs.tokenizer
        template = chat_template(processor, config.chat_template)
        return cls(inputs.rows, processor, inputs.targets["lm"], None, template)

    def __len__(self) -> int:
        return len(self._marked)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest conversation."""
        del epoch
        rows = [self._marked[index] for index in indices]
        inputs = [ids[:-1] for ids, _ in rows]
        ids = stack(inputs, self._pad)
        arrays = {
            "input_ids": ids,
            "attention_mask": stack([np.ones_like(each) for each in inputs], 0),
            "token_type_ids": np.zeros_like(ids),
            self._name: stack([np.where(s, i, IGNORED)[1:] for i, s in rows], IGNORED),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def chat_template(processor: TextProcessor, path: str | None) -> str | None:
    """Return the chat template of a file, or of a tokenizer; None: it has none.

    Raises:
        InputError: The file cannot be read, or the tokenizer has several templates.
    """
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"samples.chat_template: {path} cannot be read: {error}.") from error
    if TEMPLATE_FILE in processor.published.files:
        return processor.published.files[TEMPLATE_FILE].decode("utf-8")
    found = (processor.settings.config or {}).get(TEMPLATE_KEY)
    if found is not None and not isinstance(found, str):
        raise InputError(
            "the tokenizer has several chat templates. Write one to a file, and name it with "
            "samples.chat_template."
        )
    return found


def _apart(processor: TextProcessor, chat: Sequence[tuple[str, str]]) -> Marked:
    """Return messages one after the other: those before an answer are its prompt."""
    ids: list[IntArray] = []
    said: list[bool] = []
    asked: list[str] = []
    for role, text in chat:
        if role != ANSWERS:
            asked.append(text)
            continue
        prompt = "\n".join(asked)
        first = not ids
        tokens = prompt_ids(processor, [prompt])[0] if first else _words(processor, prompt)
        answer = answer_ids(processor, [text])[0]
        ids += [tokens, answer]
        said += [False] * len(tokens) + [True] * len(answer)
        asked = []
    return np.concatenate(ids), np.asarray(said)


def _words(processor: TextProcessor, text: str) -> IntArray:
    """Return the tokens of a prompt inside a conversation."""
    found = processor.encode([text.rstrip()] if text else [])
    return np.asarray(found[0] if found else [], dtype=np.int64)


def _rendered(processor: TextProcessor, chat: Sequence[tuple[str, str]], template: str) -> Marked:
    """Return the text of a template; the answers begin where it asks for them."""
    messages = [{"role": role, "content": text} for role, text in chat]
    whole = render(processor, messages, template)
    spans: list[tuple[int, int]] = []
    for place, message in enumerate(messages):
        if message["role"] == ANSWERS:
            begin = render(processor, messages[:place], template, ask=True)
            until = render(processor, messages[: place + 1], template)
            if not whole.startswith(until) or not until.startswith(begin):
                raise InputError(
                    "the chat template rewrites earlier messages, so that answers cannot be found "
                    "in its text. Name one that only appends with samples.chat_template."
                )
            spans.append((len(begin), len(until)))
    return _encoded(processor, whole, spans)


def _encoded(processor: TextProcessor, text: str, spans: Sequence[tuple[int, int]]) -> Marked:
    """Return the tokens of a rendered text, and which of them begin in one of some spans."""
    tokenizer = processor.tokenizer
    tokenizer.encode_special_tokens = False  # the template writes special tokens as text
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = True
    last = np.asarray([max(begin, end - 1) for begin, end in encoding.offsets], dtype=np.int64)
    said = np.zeros(len(last), dtype=np.bool_)
    for begin, end in spans:
        said |= (last >= begin) & (last < end)
    return np.asarray(processor.ids_of(encoding), dtype=np.int64), said


def render(
    processor: TextProcessor, messages: Sequence[Message], template: str, *, ask: bool = False
) -> str:
    """Return messages as a chat template writes them.

    Args:
        processor: The tokenizer, whose special tokens the template may name.
        messages: Role and content of each.
        template: The template, in Jinja.
        ask: Whether the beginning of an answer follows.

    Raises:
        InputError: The template refuses the messages or is damaged.
    """
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    special = processor.settings.special
    tokens = {
        f"{role}_token": processor.tokenizer.id_to_token(number) for role, number in special.items()
    }
    arguments: dict[str, Any] = {"add_generation_prompt": ask, **tokens}
    try:
        texts, _ = render_jinja_template([list(messages)], chat_template=template, **arguments)
    except TemplateError as error:
        raise InputError(f"the chat template cannot write a conversation: {error}.") from error
    return str(texts[0])
