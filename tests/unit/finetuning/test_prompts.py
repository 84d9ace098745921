"""Classification by the words at a mask: beside transformers, few-shot, zero-shot, refused."""

import asyncio

import httpx
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from orchestrator.config import load_config, validate_config
from orchestrator.data.processors.templates import Template
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import ConfigError, InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.evaluating import runner as evaluate_runner
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.finetuning.inputs import resolve
from orchestrator.finetuning.zero_shot import zero_shot
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import read_config
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from serving.model.engine import load_engine
from tests.support.lessons import job, run_here
from tests.support.serving import NoRecorder, application
from tests.support.streams import FILLER, WORDS, make_place

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OWN = ["it", "is", "a", ".", ",", "about", *WORDS]
VERBALIZER = {kind: kind for kind in WORDS}
TEMPLATE = "It is a {mask}. {text}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The labelled files of streams, and an imported BERT whose tokens are whole words."""
    place = make_place(tmp_path_factory.mktemp("prompts"))
    words = [*SPECIAL, *FILLER, *OWN, *(word for kind in WORDS.values() for word in kind), "##s"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    theirs.save_pretrained(place / "bert")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 24}
    config = BertConfig(vocab_size=len(vocabulary), hidden_dropout_prob=0.0, **sizes)
    model = BertForMaskedLM(config)
    for parameter in model.parameters():  # large enough that answers differ clearly
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(place / "bert")
    import_checkpoint(Zoo(place / "zoo"), str(place / "bert"), ImportOptions(name="bert"))
    return place


def asked(place, verbalizer, template=TEMPLATE, **changes):
    task = {"type": "classification", "template": template, "verbalizer": verbalizer}
    fields = {
        "run": {"dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "bert",
        "data": {"source": f"files:{place}/task2.jsonl"},
        "split": "all",
        "task": task,
        **changes,
    }
    return validate_config(EvaluateConfig, fields, "test")


@pytest.mark.parametrize("pair", [False, True])
def test_logits_are_those_of_transformers_at_the_mask(place, pair):
    template = "{text} , {mask}, {text_b}" if pair else TEMPLATE
    verbalizer = {"animal": ["animal", "cat"], "tool": "tool", "fruit": ["fruit", "fig", "plum"]}
    predictor = zero_shot(Zoo(place / "zoo").get("bert"), asked(place, verbalizer, template))
    texts = ["the cat of two", "one hammer with some fig near a screw", "pear"]
    pairs = ["under a dog", "has plum", "three tool"] if pair else None
    found = predictor.outputs(rows_of_texts(texts, pairs), predictor.task()).logits

    tokenizer = PreTrainedTokenizerFast.from_pretrained(place / "bert")
    model = BertForMaskedLM.from_pretrained(place / "bert").eval()
    for text, other, logits in zip(texts, pairs or texts, found, strict=True):
        filled = template.replace("{text_b}", other).replace("{text}", text)
        ids = tokenizer(filled.replace("{mask}", "[MASK]"), return_tensors="pt")
        place_of_mask = (ids["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
        with torch.no_grad():
            row = model(**ids).logits[0, place_of_mask]
        expected = [
            row[tokenizer.convert_tokens_to_ids([words] if isinstance(words, str) else words)]
            .mean()
            .item()
            for words in verbalizer.values()
        ]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_tokens_of_a_byte_level_tokenizer_are_those_of_the_running_text(tmp_path):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = zip(("cls", "pad", "sep", "unk"), special, strict=False)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        mask_token=AddedToken("<mask>", lstrip=True),
        **{f"{role}_token": token for role, token in names},
    )
    theirs.save_pretrained(tmp_path)
    ours = TextProcessor.load(tmp_path)
    (found,) = Template("It was {mask}. {text} So, {text_b}").tokens(ours, ["Ab c"], ["d"], 64)
    assert found.tolist() == theirs("It was <mask>. Ab c So, d")["input_ids"]


def test_only_texts_are_cut(place):
    processor = TextProcessor.load(Zoo(place / "zoo").get("bert").path)
    read = Template("{text} {mask} {text_b}.").tokens
    (ids,) = read(processor, ["cat dog horse cow"], ["saw drill"], 10)
    words = [processor.tokenizer.id_to_token(i) for i in ids]
    assert words == ["[CLS]", "cat", "dog", "horse", "cow", "[MASK]", "saw", "drill", ".", "[SEP]"]
    (ids,) = read(processor, ["cat dog horse cow"], ["saw drill"], 8)
    assert [processor.tokenizer.id_to_token(i) for i in ids[1:3]] == ["cat", "dog"]
    assert [processor.tokenizer.id_to_token(i) for i in ids[3:]] == [
        "[MASK]", "saw", "drill", ".", "[SEP]",
    ]  # fmt: skip
    with pytest.raises(InputError, match="has 4 tokens, and max_length is 5: no room"):
        read(processor, ["cat"], ["saw"], 5)
    with pytest.raises(InputError, match=r"reads \{text_b\}, and the rows have one text"):
        read(processor, ["cat"], None, 9)


def prompted(place, **changes):
    task = {"type": "classification", "template": TEMPLATE, "verbalizer": VERBALIZER, **changes}
    train = {"epochs": 20, "global_batch_size": 8, "max_length": 16, "patience": None}
    return job(place, package="bert", task=task, train=train)


def test_a_package_learns_to_answer_by_words_and_is_used_like_any_other(place):
    config = prompted(place)
    result = run_here(config)
    package = Zoo(place / "zoo").get(result.package)
    assert result.metrics["accuracy"] > 0.9
    (target,) = read_config(package.path).target
    assert (target.type_name(), target.mask_token) == ("prompt", 4)
    task = read_suite(package).exams["child"].task
    assert task.options == {"template": TEMPLATE, "verbalizer": {k: [k] for k in WORDS}}
    assert Predictor.open(package).answers(rows_of_texts(["the cat", "a saw"]))[1].label == "tool"
    fields = {
        "run": {"dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": result.package,
        "data": config.data.model_dump(exclude_unset=True),
    }
    measured = evaluate_runner.run(validate_config(EvaluateConfig, fields, "test"))
    assert measured.metrics["accuracy"] == pytest.approx(result.metrics["accuracy"])


def test_answers_over_http_are_those_of_the_predictor(place):
    config = prompted(place).model_copy(update={"output": "served"})
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": "served"})})
    package = Zoo(place / "zoo").get(run_here(config).package)
    texts = ["the cat of two", "one saw " * 30]
    expected = Predictor.open(package).answers(rows_of_texts(texts))

    async def post(body):
        app = application(load_engine(package), NoRecorder()).app
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/predict", json=body)

    found = asyncio.run(post({"inputs": texts, "truncate": True}))
    assert found.status_code == 200, found.text
    scores = [{each["label"]: each["score"] for each in row} for row in found.json()]
    for row, answer in zip(scores, expected, strict=True):
        assert row[answer.label] == pytest.approx(answer.score, rel=1e-5)
    pair = asyncio.run(post({"inputs": [["the cat", "a saw"]]}))
    assert pair.status_code in (400, 422), pair.text
    assert "needs" in pair.text


def test_a_package_answers_before_it_has_learned(place):
    result = evaluate_runner.run(asked(place, VERBALIZER))
    assert result.metrics["rows"] > 50
    assert 0.0 < result.metrics["accuracy"] < 0.8  # nothing was learned
    assert result.metrics["head"] == "zero_shot"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verbalizer": VERBALIZER | {"tool": "tools"}}, r"'tools' is \['tool', '##s'\]"),
        ({"verbalizer": VERBALIZER | {"tool": "zebra"}}, r"'zebra' is \['\[UNK\]'\]"),
        ({"verbalizer": {"animal": "cat", "plant": "fig"}}, "names animal, plant, the classes are"),
        ({"template": "{text} {mask} {text_b}"}, "rows have one text each"),
        ({"template": "it " * 40 + "{mask} {text}"}, "no room"),
    ],
)
def test_what_does_not_fit_is_refused(place, changes, message):
    with pytest.raises(InputError, match=message):
        resolve(prompted(place, **changes), Zoo(place / "zoo").get("bert"))


def test_a_package_without_a_masked_word_head_is_refused(place):
    run = {"name": "plain", "dir": str(place / "runs"), "zoo": str(place / "zoo")}
    train = {"epochs": 1, "max_length": 16}
    run_here(job(place, run=run, package="bert", output="plain", train=train))
    with pytest.raises(InputError, match=r"needs a masked-word head \(mlm\).*has plain \(cls\)"):
        resolve(prompted(place), Zoo(place / "zoo").get("plain"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{template: '{text} {mask}'}", "verbalizer: is missing"),
        ("{verbalizer: {a: b, c: d}}", "template: is missing"),
        ("{template: 'a {mask}', verbalizer: {a: b, c: d}}", r"has 0 × \{text\}"),
        ("{template: '{text} {mask} {mask}', verbalizer: {a: b, c: d}}", r"has 2 × \{mask\}"),
        ("{template: '{text} {mask} {label}', verbalizer: {a: b, c: d}}", r"\{label\} is not a"),
        ("{template: '{text} {mask}', verbalizer: {a: b, c: [d, b]}}", "has 'b' twice"),
    ],
)
def test_options_that_do_not_go_together(task, message):
    base = ["package=a", "output=b", "data.source=files:c.csv"]
    kind = "{type: classification, " + task[1:]
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, [*base, f"task={kind}"])
