"""Embeddings of imported towers are those of their class in transformers, texts and images."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    SiglipTextConfig,
    SiglipTextModel,
)

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.data.samples.media_samples import media_arrays, media_processor
from orchestrator.errors import InputError
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.parity.harness import randomize
from tests.support.every_task import Case, data_of, load

TEXTS = ["one cat under the saw", "a dog", "near the drill has some of the hens one file"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32}
SETTINGS = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}}
SETTINGS |= {"crop_size": {"height": 8, "width": 8}}


def write_tokenizer(folder):
    """Write a tokenizer that ends a text with its last token; return its number of tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=["[UNK]", "[PAD]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["[END]"])
    end = tokenizer.token_to_id("[END]")
    tokenizer.post_processor = processors.TemplateProcessing("$A [END]", None, [("[END]", end)])
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[END]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.save_pretrained(folder)
    return end + 1


def brought(theirs, folder):
    randomize(theirs.eval())
    theirs.save_pretrained(folder / "theirs")
    zoo = Zoo(str(folder / "zoo"))
    return import_checkpoint(zoo, f"hf:{folder / 'theirs'}", ImportOptions(name="theirs"))


def test_texts_have_the_projected_vector_of_clip(tmp_path):
    count = write_tokenizer(tmp_path / "theirs")
    options = {"vocab_size": count, "eos_token_id": count - 1, "pad_token_id": 1}
    config = CLIPTextConfig(**SIZES, **options, max_position_embeddings=32, projection_dim=12)
    theirs = CLIPTextModelWithProjection(config)
    package = brought(theirs, tmp_path)
    found = Predictor.open(package).embed(rows_of_texts(TEXTS))
    fast = PreTrainedTokenizerFast.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        batches = [fast(text, return_tensors="pt") for text in TEXTS]
        expected = [theirs(b["input_ids"], b["attention_mask"]).text_embeds[0] for b in batches]
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-5)
    assert load_engine(package).card.embedding_sizes == {"embedding": 12}


def test_images_have_the_projected_vector_of_clip(tmp_path):
    config = CLIPVisionConfig(**SIZES, image_size=8, patch_size=4, projection_dim=12)
    theirs = CLIPVisionModelWithProjection(config)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(SETTINGS))
    package = brought(theirs, tmp_path)
    case = Case("pictures", "classification", modality="image")
    rows = load(case, data_of(case, tmp_path)).test
    found = Predictor.open(package).embed(rows)
    processor = media_processor(open_processor(package.path), rows)
    arrays = media_arrays(rows, np.arange(len(rows)), processor)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(arrays["pixel_values"])).image_embeds
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_texts_that_are_padded_without_a_mask_are_refused(tmp_path):
    count = write_tokenizer(tmp_path / "theirs")
    config = SiglipTextConfig(**SIZES, vocab_size=count, max_position_embeddings=32)
    package = brought(SiglipTextModel(config), tmp_path)
    with pytest.raises(InputError, match="padded to 32 tokens without a mask"):
        Predictor.open(package).embed(rows_of_texts(TEXTS))
