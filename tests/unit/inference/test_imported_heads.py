"""Imported heads answer as their class in transformers: over HTTP, fine-tuned and exported too."""

import asyncio
import dataclasses

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    pipeline,
)

from orchestrator.inference.inputs import items_of_rows
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.config import read_config
from orchestrator.modeling.huggingface.exporting import write_export
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.parity.harness import randomize
from tests.support.every_task import Case, data_of, load, make_row, task_of
from tests.support.serving import NoRecorder, application

CONFIG = FineTuneConfig(epochs=2, global_batch_size=16, learning_rate=5e-3, max_length=24)
SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 2}
FAMILIES = {
    name: (getattr(transformers, f"{name}Config"), getattr(transformers, f"{head}Classification"))
    for name, head in {
        "ModernBert": "ModernBertForSequence",
        "DebertaV2": "DebertaV2ForSequence",
        "EuroBert": "EuroBertForSequence",
        "NomicBert": "NomicBertForSequence",
        "Gte": "GteForSequence",
        "Qwen3": "Qwen3ForSequence",
        "Gemma3Text": "Gemma3TextForSequence",
        "SmolLM3": "SmolLM3ForSequence",
        "Phi3": "Phi3ForSequence",
        "OPT": "OPTForSequence",
        "GPTNeoX": "GPTNeoXForSequence",
    }.items()
}
SEGMENTS = (BertConfig, ElectraConfig)
OWN = {"deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}}
"""What makes a config of the family one that is published."""
HEADS = {
    "question_answering": ("span", BertConfig, BertForQuestionAnswering),
    "multiple_choice": ("choice", BertConfig, BertForMultipleChoice),
    "classification, causal": ("cls", Qwen2Config, Qwen2ForSequenceClassification),
    **{f"classification, {name}": ("cls", *each) for name, each in FAMILIES.items()},
    "classification, narrow": ("cls", ElectraConfig, ElectraForSequenceClassification),
}


def write_tokenizer(folder, texts, segments):
    """Write a tokenizer whose padding token has id 2; return its number of tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 3))
    named = {f"{role}_token": token for role, token in SPECIAL.items()}
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, **named
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


class World:
    """A published folder, its package, and rows of its kind."""

    def __init__(self, name, folder):
        self.head, config_class, self.cls = HEADS[name]
        self.case = Case(name, name.partition(",")[0])
        self.spec = data_of(self.case, folder)
        self.data = load(self.case, self.spec)
        self.theirs = folder / "theirs"
        texts = [" ".join(map(str, make_row(self.case, i).values())) for i in range(60)]
        size = write_tokenizer(self.theirs, texts, config_class in SEGMENTS)
        torch.manual_seed(0)
        options = SIZES | OWN.get(config_class.model_type, {})
        if hasattr(config_class(), "num_key_value_heads"):
            options |= {"num_key_value_heads": 1, "head_dim": 8}
        model = self.cls(config_class(vocab_size=size, **options)).eval()
        randomize(model)
        model.save_pretrained(self.theirs)
        self.zoo = Zoo(str(folder / "zoo"))
        options = ImportOptions(name="theirs")
        self.package = import_checkpoint(self.zoo, f"hf:{self.theirs}", options)
        self.task = task_of(self.case, self.data, self.head)


@pytest.fixture(scope="module", params=list(HEADS))
def world(request, tmp_path_factory):
    return World(request.param, tmp_path_factory.mktemp("world"))


@torch.no_grad()
def theirs_of(world, folder):
    """Return what transformers answers to the test rows: spans, choices or probabilities."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = world.data.test
    if world.head == "cls":
        # a Phi-3 without LongRoPE is a LLaMA or a Mistral, and goes out as one
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        classify = pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)
        found = [sorted(each, key=lambda one: one["label"]) for each in classify(list(rows.texts))]
        return [[one["score"] for one in each] for each in found]
    model = world.cls.from_pretrained(folder).eval()
    found = []
    for index in range(len(rows)):
        if world.head == "choice":
            choices = rows.choices[index]
            texts = [rows.texts[index]] * len(choices)
            batch = tokenizer(texts, list(choices), return_tensors="pt", padding=True)
            logits = model(**{name: value[None] for name, value in batch.items()}).logits[0]
            found.append(logits.softmax(-1).tolist())
            continue
        question, context = rows.texts[index], rows.pairs[index]
        batch = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets, sides = batch.pop("offset_mapping")[0].tolist(), batch.sequence_ids(0)
        output = model(**batch)
        places = [i for i, side in enumerate(sides) if side == 1]
        scores = {
            (i, j): float(output.start_logits[0, i] + output.end_logits[0, j])
            for i in places
            for j in places
            if i <= j
        }
        first, last = max(scores, key=scores.get)
        found.append(context[offsets[first][0] : offsets[last][1]])
    return found


def ours_of(answers, head):
    return [answer.text if head == "span" else list(answer.scores) for answer in answers]


def same(found, expected):
    if isinstance(expected[0], str):
        assert found == expected
    else:
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


def test_answers_are_those_of_transformers(world):
    predictor = Predictor.open(world.package)
    assert predictor.default == world.head
    same(ours_of(predictor.answers(world.data.test), world.head), theirs_of(world, world.theirs))


def test_the_service_gives_the_same_answers(world):
    engine = load_engine(world.package)
    assert engine.card.default_target == world.head
    rows = dataclasses.replace(world.data.test, labels=np.zeros(len(world.data.test)))
    service = application(engine, NoRecorder()).service
    served = asyncio.run(service.predict(items_of_rows(rows, None), truncate=True))
    same(ours_of(served, world.head), theirs_of(world, world.theirs))


def test_a_fine_tuned_head_keeps_its_layers_and_goes_back(world, tmp_path):
    lesson = Lesson(world.task, world.data)
    tuner = FineTuner(world.package.path, [lesson], CONFIG, seed=1)
    assert tuner.model.config.target == read_config(world.package.path).target
    before = {name: tensor.clone() for name, tensor in tuner.model.state_dict().items()}
    imported = Predictor.open(world.package).answers(world.data.test)
    same(ours_of(tuner.answers("test"), world.head), ours_of(imported, world.head))
    for _ in range(CONFIG.epochs):
        tuner.train_epoch()
    after = tuner.model.state_dict()
    assert not any(torch.equal(after[name], before[name]) for name in before if "output" in name)
    (tmp_path / "child").mkdir()
    tuner.write(tmp_path / "child")
    (tmp_path / "out").mkdir()
    write_export(tmp_path / "child", {}, tmp_path / "out")
    child = Predictor.open_folder(tmp_path / "child", {world.head: world.task}, default=world.head)
    answers = ours_of(child.answers(world.data.test), world.head)
    same(answers, theirs_of(world, tmp_path / "out"))
