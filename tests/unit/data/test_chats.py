"""Conversations and parallel text: read, tokenized, and learned as transformers learns them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import SampleInputs, build_samples
from orchestrator.data.samples.chats import ChatSamples, chat_template, render
from orchestrator.data.samples.kinds import ParallelConfig, SftConfig
from orchestrator.data.samples.prompts import PromptSamples
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from tests.parity.harness import mean_loss, ours_from, randomize

CHATS = [
    ("user", "how are you", "assistant", "very well"),
    ("system", "be brief", "user", "what is two and two", "assistant", "four"),
    ("user", "hello", "assistant", "good day", "user", "and now", "assistant", "good night"),
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rows_of(chats):
    labels = FORMS["chat"].stack(chats)
    return Rows(["x"] * len(chats), None, labels)


@pytest.fixture(scope="module")
def words():
    texts = [text for chat in CHATS for text in chat] * 3
    return TextProcessor.train([*texts, "system user assistant"], 400, "bpe")


@pytest.fixture
def marked(words):
    """A tokenizer with the special tokens of ChatML."""
    processor = TextProcessor(words.tokenizer.from_str(words.tokenizer.to_str()), words.settings)
    processor.tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return processor


def read(path, form="chat", **columns):
    return load_task(DatasetSpec(source=f"files:{path}", **columns), form=FORMS[form])


LAYOUTS = {
    "messages": lambda a, b: {
        "messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
    },
    "sharegpt": lambda a, b: {
        "conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]
    },
    "text": lambda a, b: {
        "messages": json.dumps(
            [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        )
    },
    "prompt": lambda a, b: {"prompt": a, "answer": b},
    "alpaca": lambda a, b: {"instruction": a, "input": "", "output": b},
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_messages(tmp_path, layout, suffix):
    rows = [LAYOUTS[layout](f"question {i}", f"answer {i}") for i in range(20)]
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    data = read(path)
    parts = [data.train, data.validation, data.test]
    found = {row for part in parts for row in part.labels}
    assert found == {("user", f"question {i}", "assistant", f"answer {i}") for i in range(20)}
    assert {text for part in parts for text in part.texts} == {f"question {i}" for i in range(20)}


def test_the_input_of_an_instruction_follows_it(tmp_path):
    rows = [
        {"instruction": f"add {i}", "input": f"{i} and 1", "output": f"{i + 1}"} for i in range(20)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path / "x.jsonl")
    labels = [row for part in (data.train, data.validation, data.test) for row in part.labels]
    assert ("user", "add 3\n3 and 1", "assistant", "4") in labels


def test_unusable_conversations_are_counted_by_reason(tmp_path):
    good = [LAYOUTS["messages"](f"question {i}", f"answer {i}") for i in range(20)]
    user, said = ({"role": role, "content": "x"} for role in ("user", "assistant"))
    bad = [None, [], "no list", [user], [said, user], [{"role": "tool", "content": "x"}, said],
           [user, {"role": "assistant", "content": " "}]]  # fmt: skip
    rows = [*good, *({"messages": each} for each in bad)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "x.jsonl", max_bad_share=0.5).rejected == {
        "messages missing": 2,
        "messages are not a list": 1,
        "no question before an answer of the assistant": 2,
        "message without a known role or without content": 2,
    }


def test_one_answer_is_read_as_the_task_generation_reads_it(words):
    chats = ChatSamples(rows_of(CHATS[:1]), words, "lm", 32)
    prompts = PromptSamples(Rows(["how are you"], None, np.asarray(["very well"])), words, "lm", 32)
    ours, theirs = (each.collate(np.arange(1), 0) for each in (chats, prompts))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_all_answers_are_learned_and_nothing_else(words):
    samples = ChatSamples(rows_of(CHATS), words, "lm", 64)
    batch = samples.collate(np.arange(3), 0)
    for row, chat in enumerate(CHATS):
        learned = batch["labels.lm"][row]
        answers = "".join(f" {t}" for r, t in zip(chat[::2], chat[1::2], strict=True)
                          if r == "assistant")  # fmt: skip
        assert words.decode(learned[learned >= 0].tolist()) == answers
        assert (batch["labels.lm"][row] >= 0).sum() == len(
            [i for i in samples._marked[row][1] if i]
        )


@pytest.mark.parametrize("special", [True, False])
def test_a_template_marks_what_transformers_marks(words, marked, special):
    processor = marked if special else words
    samples = ChatSamples(rows_of(CHATS), processor, "lm", 200, CHATML)
    for (ids, said), chat in zip(samples._marked, CHATS, strict=True):
        messages = [{"role": r, "content": t} for r, t in zip(chat[::2], chat[1::2], strict=True)]
        texts, spans = render_jinja_template(
            [messages], chat_template=CHATML, return_assistant_tokens_mask=True
        )
        text = render(processor, messages, CHATML)
        assert text == texts[0]
        processor.tokenizer.encode_special_tokens = False
        encoding = processor.tokenizer.encode(text, add_special_tokens=False)
        processor.tokenizer.encode_special_tokens = True
        assert ids.tolist() == encoding.ids
        wanted = np.zeros(len(ids), dtype=bool)
        for begin, end in spans[0]:
            first, last = encoding.char_to_token(begin), encoding.char_to_token(end - 1)
            wanted[first : last + 1] = True
        assert said.tolist() == wanted.tolist()
        assert ("<|im_end|>" in [processor.tokenizer.id_to_token(i) for i in ids]) == special


def test_a_template_that_rewrites_messages_is_refused(words):
    rewriting = "{{ messages | length }} {{ messages[-1].content }}"
    with pytest.raises(InputError, match="rewrites earlier messages"):
        ChatSamples(rows_of(CHATS[2:]), words, "lm", 64, rewriting)
    with pytest.raises(InputError, match="cannot write a conversation"):
        ChatSamples(rows_of(CHATS), words, "lm", 64, "{{ raise_exception('no') }}")


def test_the_template_is_the_tokenizers_or_a_file(words, tmp_path):
    assert chat_template(words, None) is None
    settings = words.settings.__class__("bpe", config={"chat_template": CHATML})
    assert chat_template(TextProcessor(words.tokenizer, settings), None) == CHATML
    words.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    loaded = TextProcessor.load(tmp_path)
    assert chat_template(loaded, None) == CHATML
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/chat_template.jinja").read_text() == CHATML
    (tmp_path / "own.jinja").write_text("own")
    assert chat_template(words, str(tmp_path / "own.jinja")) == "own"
    with pytest.raises(InputError, match="cannot be read"):
        chat_template(words, str(tmp_path / "none.jinja"))


def test_of_a_long_conversation_the_last_answer_stays(words, caplog):
    ((ids, said),) = ChatSamples(rows_of(CHATS[2:]), words, "lm", 8)._marked
    assert len(ids) == 9
    assert said[-1]
    assert "1 of 1 conversations are cut to their last 8 tokens" in caplog.text
    assert ids[-1] == words.settings.special["sep"]


@pytest.mark.parametrize("template", [None, CHATML])
def test_the_loss_is_that_of_transformers_with_labels_of_minus_100(tmp_path, marked, template):
    config = transformers.LlamaConfig(
        vocab_size=marked.vocab_size, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, model = ours_from(tmp_path)
    samples = ChatSamples(rows_of(CHATS), marked, "lm", 90, template)
    batch = samples.collate(np.arange(3), 0)
    longest = max(len(ids) for ids, _ in samples._marked)
    ids, labels = torch.zeros(3, longest, dtype=int), torch.full((3, longest), -100)
    mask = torch.zeros(3, longest, dtype=int)
    for row, (tokens, said) in enumerate(samples._marked):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = torch.from_numpy(np.where(said, tokens, -100))
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert abs(float((mean_loss(model, batch) - expected).detach())) <= 1e-5
    assert labels[:, 0].eq(-100).all()
    assert float(expected) > 1


def test_the_build_reads_the_options(words):
    inputs = SampleInputs(rows_of(CHATS), words, {"lm": "lm"}, 7)
    assert len(build_samples(SftConfig(), inputs)) == 3


@pytest.mark.parametrize("start", ["padding", "end", "begin"])
def test_parallel_text_is_what_transformers_learns(tmp_path, words, start):
    sources = ["how are you", "good day", "what is two and two"]
    rows = Rows(sources, None, FORMS["text"].stack(["very well", "good night", "four"]))
    inputs = SampleInputs(rows, words, {"lm": "lm"}, 7)
    batch = build_samples(ParallelConfig(start=start), inputs).collate(np.arange(3), 0)
    role = {"padding": "pad", "end": "sep", "begin": "cls"}[start]
    number = words.settings.special[role]
    assert batch["decoder_input_ids"][:, 0].tolist() == [number] * 3
    config = transformers.T5Config(
        vocab_size=words.vocab_size, d_model=24, d_kv=6, d_ff=36, num_layers=2, num_heads=4,
        decoder_start_token_id=number, pad_token_id=words.settings.special["pad"],
        tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, model = ours_from(tmp_path)
    expected = theirs(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        labels=batch["labels.lm"],
    ).loss  # fmt: skip
    assert abs(float((mean_loss(model, batch) - expected).detach())) <= 1e-5
    written = [row[row >= 0].tolist() for row in batch["labels.lm"]]
    assert [words.decode(row) for row in written] == [" very well", " good night", " four"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.tsv", "x.parquet"])
def test_parallel_text_is_read_from_columns(tmp_path, name):
    rows = [{"source": f"eins {i}", "target": f"one {i}"} for i in range(20)]
    if name == "x.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    elif name == "x.tsv":
        lines = ["source\ttarget", *(f"{r['source']}\t{r['target']}" for r in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    else:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path / name, "text")
    pairs = set(zip(data.train.texts, data.train.labels, strict=True))
    assert pairs <= {(row["source"], row["target"]) for row in rows}
    assert len(pairs) == 14


def test_words_of_a_template_that_the_tokenizer_does_not_know_are_said(caplog):
    tokens = TextProcessor.train([text for chat in CHATS for text in chat[1::2]], 300)
    ChatSamples(rows_of(CHATS), tokens, "lm", 64)
    assert "[UNK]" not in caplog.text
    ChatSamples(rows_of(CHATS), tokens, "lm", 64, CHATML)
    assert "of the tokens are [UNK]" in caplog.text
