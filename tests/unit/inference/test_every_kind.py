"""Every task kind from rows to answers: a tiny model learns its rows by heart and says them."""

import io
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.data.media.audio import AudioProcessor
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.processors.example_processor import ExampleProcessor, open_processor
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.labels import object_array
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError
from orchestrator.inference.models import TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.tasks.base import HeadOptions, task_for
from orchestrator.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import train
from orchestrator.zoo import Zoo

WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty"),
    *("knoll", "ledge", "marsh", "north", "ocean", "plain", "quarry", "ridge", "shore", "thorn"),
    *("upper", "vale", "water", "xenon", "yield", "zone"),
]
MAX_LENGTH = 32


def phrase(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count, replace=False))


def empty(count):
    return np.zeros(count, dtype=np.int64)


def answers_rows():
    """Eight contexts, three of them longer than a window, one question without an answer."""
    contexts = [phrase(i, 22 if i % 3 == 0 else 8) for i in range(8)]
    spots = [-3, 2, 4, 5, 1, 3, 6, 2]
    labels = []
    for i, (text, spot) in enumerate(zip(contexts, spots, strict=True)):
        answer = " ".join(text.split()[spot:][:2])
        labels.append(() if i == 4 else ((answer, text.index(answer)),))
    questions = [f"what is {WORDS[i]}" for i in range(8)]
    return Rows(questions, contexts, object_array(labels))


def choice_rows():
    choices = [tuple(phrase(10 * i + c, 3) for c in range(2 + i % 3)) for i in range(8)]
    labels = np.asarray([i % len(each) for i, each in enumerate(choices)])
    return Rows([phrase(100 + i, 3) for i in range(8)], None, labels, choices=choices)


def pair_rows(scored):
    texts, pairs = [phrase(i, 3) for i in range(8)], [phrase(50 + i, 3) for i in range(8)]
    labels = np.linspace(0, 5, 8) if scored else np.ones(8)
    negatives = None if scored else [phrase(80 + i, 3) for i in range(8)]
    return Rows(texts, pairs, labels.astype(np.float32), negatives=negatives)


def prompt_rows():
    prompts = [f"tell {WORDS[i]} {WORDS[i + 8]}" for i in range(8)]
    return Rows(prompts, None, object_array([phrase(30 + i, 1 + i % 4) for i in range(8)]))


def tone(index):
    """A recording of one or two beeps whose pitch tells which letter it is."""
    seconds = np.arange(2400) / 8000
    noise = np.random.default_rng(index).normal(0, 0.02, len(seconds))
    wave_ = 0.5 * np.sin(2 * np.pi * (400 + 350 * index) * seconds) * (seconds < 0.2) + noise
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((wave_ * 32767).astype("<i2").tobytes())
    return content.getvalue()


def sound_rows(labels):
    return Rows([], None, labels, sounds=[tone(i) for i in range(6)])


def picture(index):
    pixels = np.random.default_rng(index).integers(0, 255, (9 + index, 8), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def picture_rows():
    return Rows([], None, np.asarray([0, 1, 2, 0, 1, 2]), pictures=[picture(i) for i in range(6)])


WORD_STACK = {"parts": ["word", "pos"], "layernorm": False, "dropout": 0.0}
BLOCKS = {"type": "transformer", "num_layers": 2, "num_heads": 2, "dropout": 0.0}
SPEECH = {
    "parts": [{"type": "speech", "mel_bins": 16, "kernels": [3], "strides": [2]}, "sinusoidalpos"],
    "layernorm": False,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
PICTURE = {
    "parts": [{"type": "patch", "image_size": 8, "patch_size": 4, "channels": 1}, "pos"],
    "layernorm": False,
    "dropout": 0.0,
}
PLAIN = {"embedding": WORD_STACK, "encoder": BLOCKS}
CAUSAL = {"embedding": WORD_STACK, "encoder": BLOCKS | {"mask": "causal"}, "target": "lm"}
DECODER = PLAIN | {"target_embedding": WORD_STACK, "decoder": BLOCKS, "target": "lm"}
HEARD = {"embedding": SPEECH, "encoder": BLOCKS | {"norm_position": "pre"}}
TEXTS = object_array(["amber", "birch", "cedar", "delta", "ember", "fjord"])

CASES = {
    "question_answering": ("question_answering", answers_rows, PLAIN),
    "multiple_choice": ("multiple_choice", choice_rows, PLAIN),
    "scored pairs": ("similarity", lambda: pair_rows(True), PLAIN),
    "triplets": ("similarity", lambda: pair_rows(False), PLAIN),
    "causal generation": ("generation", prompt_rows, CAUSAL),
    "decoded generation": ("generation", prompt_rows, DECODER),
    "ctc": ("transcription", lambda: sound_rows(TEXTS), HEARD | {"target": "ctc"}),
    "decoded transcription": (
        "transcription",
        lambda: sound_rows(TEXTS),
        HEARD | {"target_embedding": WORD_STACK, "decoder": BLOCKS, "target": "lm"},
    ),
    "classes of sounds": ("classification", lambda: sound_rows(np.arange(6) % 3), HEARD),
    "classes of images": (
        "classification",
        picture_rows,
        {"embedding": PICTURE, "encoder": BLOCKS | {"norm_position": "pre"}},
    ),
}


def processor_for(rows, letters):
    kind = "characters" if letters else "wordpiece"
    text = TextProcessor.train([" ".join(WORDS), "what is tell"], 300, kind, MAX_LENGTH)
    if rows.sounds is not None:
        return ExampleProcessor(text, sound=AudioProcessor(mel_bins=16, rate=8000))
    if rows.pictures is not None:
        fixed = ImageProcessor(size=(8, 8), mean=(0.5,), std=(0.5,))
        return ExampleProcessor(picture=fixed)
    return text


def lesson(case):
    """Return the task, its rows, an untrained model, and its processor."""
    kind, make, parts = CASES[case]
    rows = make()
    processor = processor_for(rows, letters=case == "ctc")
    names = tuple("abc") if kind == "classification" else ()
    data = TaskData("rows", names, rows, rows, rows)
    size = max(getattr(getattr(processor, "text", processor), "vocab_size", 0) or 0, 8)
    base = {"hidden_size": 32, "vocab_size": size, "max_position_embeddings": 40} | parts
    own = ModelConfig.model_validate(base) if "target" in base else None
    task = task_for(kind, data, "head", own)
    target = task.target(HeadOptions(dropout=0.0))
    config = own or ModelConfig.model_validate(base | {"target": [target.model_dump()]})
    torch.manual_seed(3)
    return task, rows, build_model(config), processor


def learn(task, rows, model, processor, steps):
    samples = task.samples(rows, processor, MAX_LENGTH)
    size = len(samples)
    plan = TrainConfig(
        max_steps=steps,
        global_batch_size=size,
        micro_batch_size=size,
        optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.0),
        schedule=ScheduleConfig(type="linear", warmup_steps=10),
        max_grad_norm=1.0,
        log_every_steps=steps,
    )
    engine = SingleEngine(model, plan.optimizer)
    train(engine, StepSource(samples, size, size, 7), plan, seed=7)


RIGHT = {
    "question_answering": ("f1", 1.0),
    "multiple_choice": ("accuracy", 1.0),
    "scored pairs": ("spearman", 0.99),
    "triplets": ("ndcg_10", 1.0),
    "causal generation": ("exact_match", 1.0),
    "decoded generation": ("exact_match", 1.0),
    "ctc": ("wer", 0.0),
    "decoded transcription": ("wer", 0.0),
    "classes of sounds": ("accuracy", 1.0),
    "classes of images": ("accuracy", 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_learns_its_rows_and_answers_them(case):
    task, rows, model, processor = lesson(case)
    name, wanted = RIGHT[case]

    def measured():
        predictor = Predictor(TorchModel(model), processor, {task.head: task}, default=task.head)
        return predictor.measure(rows).metrics[name].value

    before = measured()
    learn(task, rows, model, processor, 200)
    if name == "wer":
        assert measured() == wanted < before
    else:
        assert measured() >= wanted - 1e-9 > before


@pytest.mark.parametrize("case", ["question_answering", "causal generation", "ctc"])
def test_a_package_answers_like_the_model_it_was_made_of(case, tmp_path):
    task, rows, model, processor = lesson(case)
    zoo = Zoo(str(tmp_path))
    with zoo.draft(
        "tiny", kind="finetuned", producer={}, parents=[], task=None, metrics={}
    ) as draft:
        write_model(draft.path, model, model.config)
        processor.save(draft.path)
        package = draft.commit()
    opened = Predictor.open(package)
    assert opened.task().kind() == task.kind()
    assert type(open_processor(package.path)) is type(processor)
    live = Predictor(TorchModel(model), processor, opened.tasks, default=task.head)
    expected = said(live.answers(rows))
    assert said(opened.answers(rows)) == expected
    assert [said(opened.answers(rows.take([i])))[0] for i in range(len(rows))] == expected


def said(answers):
    """What answers say, without the last digits of their scores."""
    found = [answer.to_json() for answer in answers]
    return [{k: round(v, 5) if k == "score" else v for k, v in each.items()} for each in found]


def test_rows_of_another_kind_are_refused():
    task, rows, model, processor = lesson("question_answering")
    predictor = Predictor(TorchModel(model), processor, {task.head: task}, default=task.head)
    with pytest.raises(InputError, match="answers rows of pair, these are of text"):
        predictor.answers(Rows(rows.texts, None, empty(len(rows))))
    data = TaskData("d", (), prompt_rows(), prompt_rows(), prompt_rows())
    with pytest.raises(InputError, match="multiple_choice reads rows of choices"):
        task_for("multiple_choice", data, "x")
    with pytest.raises(InputError, match="continues the package's own head"):
        task_for("generation", data, "x", model.config)


def test_tasks_choose_their_options_from_the_rows():
    def options(kind, rows):
        data = TaskData("d", (), rows, rows, rows)
        return task_for(kind, data, "x").spec.options

    assert options("question_answering", answers_rows())["unanswerable"] is True
    assert options("question_answering", answers_rows().take([0, 1]))["unanswerable"] is False
    scored = options("similarity", pair_rows(True))
    assert (scored["scored"], scored["highest_score"]) == (True, 5.0)
    together = options("similarity", pair_rows(False))
    assert (together["scored"], together["highest_score"]) == (False, 1.0)
