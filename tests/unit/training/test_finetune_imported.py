"""Fine-tuning starts from checkpoints of others as from our own packages."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model
from orchestrator.training.finetune import FineTuneConfig, FineTuner
from orchestrator.zoo import Zoo

from .test_finetune import rows, task  # noqa: F401 - the fixture

CONFIG = FineTuneConfig(epochs=6, global_batch_size=16, learning_rate=5e-3, max_length=16)
SPECIAL = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(rows(150, 1).texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 3))
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    special = {f"{role}_token": token for role, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=300, intermediate_size=32, max_position_embeddings=32, pad_token_id=2, **sizes
    )
    BertForPreTraining(config).to(torch.bfloat16).save_pretrained(folder)
    zoo = Zoo(str(tmp_path_factory.mktemp("zoo")))
    return import_checkpoint(zoo, f"hf:{folder}", ImportOptions(name="theirs"))


def test_an_imported_encoder_learns_a_task(imported, task, tmp_path):  # noqa: F811
    tuner = FineTuner(imported.path, task, CONFIG, seed=1)
    before = tuner.evaluate("validation")
    for _ in range(6):
        tuner.train_epoch()
    after = tuner.evaluate("validation")
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.9
    tuner.write(tmp_path)
    assert [target.name for target in load_model(tmp_path).config.target] == [tuner.head]
    again = FineTuner(tmp_path, task, CONFIG, seed=1)
    assert again.evaluate("validation") == after
