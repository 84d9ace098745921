"""Published folders of speech: transcriptions are those of transformers' pipeline, before and after
fine-tuning."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoProcessor,
    HubertConfig,
    HubertForCTC,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    Speech2TextTokenizer,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    pipeline,
)

from orchestrator.config import validate_config
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.sources.opening import load_task
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support import published
from tests.support.lessons import run_here

from .harness import randomize

RATE, ROWS = 16_000, 12


WORDS = ("THE CAT", "A DOG'S", "SEA SHELLS")
SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "conv_dim": (12, 12), "conv_kernel": (20, 8)}
SMALL |= {"conv_stride": (40, 8), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4}
SMALL |= {"num_conv_pos_embedding_groups": 2, "vocab_size": 32, "pad_token_id": 0}
SMALL |= {"ctc_zero_infinity": True, "mask_time_prob": 0.0, "layerdrop": 0.0}
CONFIG = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def letters(model, config, **tokenizer):
    def write(folder):
        made = model(config(**SMALL)).eval()
        randomize(made, seed=4)
        made.save_pretrained(folder)
        published.ctc(folder, config=CONFIG | tokenizer)

    return write


SIDES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
SIDES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16}


def speech_to_text(folder, seed=5, **tokenizer):
    published.speech_to_text(folder, **tokenizer)
    size = len(json.loads((folder / "vocab.json").read_text()))
    config = Speech2TextConfig(
        vocab_size=size,
        input_feat_per_channel=10,
        conv_channels=16,
        max_source_positions=200,
        max_target_positions=24,
        **SIDES,
    )
    made = Speech2TextForConditionalGeneration(config).eval()
    randomize(made, seed=seed)
    made.generation_config.update(max_length=24)
    if tokenizer:
        language = Speech2TextTokenizer.from_pretrained(folder).prefix_tokens[0]
        made.generation_config.update(forced_bos_token_id=language)
    made.save_pretrained(folder)


def whisper(folder, seed=9):
    special = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    published.saved_bytes(folder, "WhisperTokenizer", special=special, last=True)
    WhisperFeatureExtractor(feature_size=10, chunk_length=1).save_pretrained(folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    end, start, plain = tokenizer.convert_tokens_to_ids(special)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=10,
        max_source_positions=50,
        max_target_positions=24,
        decoder_start_token_id=start,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
        **SIDES,
    )
    made = WhisperForConditionalGeneration(config).eval()
    randomize(made, seed=seed)
    settings = {"max_length": 24, "is_multilingual": False, "no_timestamps_token_id": plain}
    settings |= {"suppress_tokens": None, "begin_suppress_tokens": None}
    settings |= {"_from_model_config": False}
    for name, value in settings.items():  # update() leaves out what only Whisper has
        setattr(made.generation_config, name, value)
    made.save_pretrained(folder)


FRENCH = {"lang_codes": "mustc", "tgt_lang": "fr", "seed": 9}
FOLDERS = {
    "wav2vec2": letters(Wav2Vec2ForCTC, Wav2Vec2Config),
    "wav2vec2, lower case": letters(Wav2Vec2ForCTC, Wav2Vec2Config, do_lower_case=True),
    "hubert": letters(HubertForCTC, HubertConfig),
    "speech_to_text": speech_to_text,
    "speech_to_text, languages": partial(speech_to_text, **FRENCH),
    "whisper": whisper,
}


def recordings(folder):
    """Write recordings whose pitch says which words they are, and their list."""
    folder.mkdir()
    lines = []
    for index in range(ROWS):
        seconds = np.arange(RATE // 2) / RATE
        noise = np.random.default_rng(index).normal(0, 0.05, len(seconds))
        tone = 0.5 * np.sin(2 * np.pi * (400, 900, 2000)[index % 3] * seconds) + noise
        soundfile.write(folder / f"{index}.wav", tone.astype(np.float32), RATE)
        lines.append(json.dumps({"path": f"{index}.wav", "text": WORDS[index % 3]}))
    path = folder / "said.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def theirs_of(folder, rows):
    """Return what transformers' pipeline writes."""
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    sounds = [soundfile.read(each, dtype="float32")[0] for each in rows]
    given = [{"raw": sound, "sampling_rate": RATE} for sound in sounds]
    greedy = {} if recognize.type == "ctc" else {"generate_kwargs": {"num_beams": 1}}
    return [recognize(each, **greedy)["text"] for each in given]


@pytest.mark.parametrize("name", list(FOLDERS))
def test_transcriptions_are_those_of_transformers(name, tmp_path):
    torch.manual_seed(0)
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    FOLDERS[name](shipped)
    said = recordings(tmp_path / "sounds")
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{shipped}", ImportOptions(name="speech"))
    fields = {
        "run": {"name": "said", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
        "package": "speech",
        "output": "tuned",
        "task": {"type": "transcription"},
        "data": {"source": f"files:{said}", "validation_fraction": 0.25, "test_fraction": 0.25},
        "train": {"epochs": 3, "global_batch_size": 4, "learning_rate": 3e-3, "patience": None},
    }
    config = validate_config(FinetuneConfig, fields, "test")
    rows = load_task(config.data, form=FORMS["text"]).test
    paths = [tmp_path / "sounds" / f"{index}.wav" for index in range(ROWS)]
    order = {path.read_bytes(): path for path in paths}
    files = [order[bytes(content)] for content in rows.media]
    ours = [answer.text for answer in Predictor.open(package).answers(rows)]
    assert ours == theirs_of(shipped, files)
    assert any(ours)
    run_here(config)
    tuned = zoo.get("tuned")
    export_package(tuned, tmp_path / "out")
    answers = [answer.text for answer in Predictor.open(tuned).answers(rows)]
    assert answers == theirs_of(tmp_path / "out", files)
    assert answers != ours
    texts = [*WORDS, "unknown é"]
    folders = (shipped, tmp_path / "out")
    ids = [AutoProcessor.from_pretrained(each).tokenizer(texts).input_ids for each in folders]
    assert ids[0] == ids[1]
