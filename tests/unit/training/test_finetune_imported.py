"""Fine-tuning starts from checkpoints of others as from our own packages."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from orchestrator.errors import InputError
from orchestrator.modeling.config import LoraConfig
from orchestrator.modeling.huggingface.exporting import write_export
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner
from orchestrator.training.finetune.lessons import lesson_of
from orchestrator.zoo import Zoo

from .test_finetune import rows, task  # noqa: F401 - the fixture

CONFIG = FineTuneConfig(epochs=6, global_batch_size=16, learning_rate=5e-3, max_length=16)
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
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
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    zoo = Zoo(str(tmp_path_factory.mktemp("zoo")))
    return import_checkpoint(zoo, f"hf:{folder}", ImportOptions(name="theirs"))


def test_an_imported_encoder_learns_a_task(imported, task, tmp_path):  # noqa: F811
    tuner = FineTuner(imported.path, [lesson_of(task)], CONFIG, seed=1)
    before = tuner.evaluate("validation")
    for _ in range(6):
        tuner.train_epoch()
    after = tuner.evaluate("validation")
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.9
    tuner.write(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    assert [target.name for target in load_model(tmp_path).config.target] == [tuner.head]
    again = FineTuner(tmp_path, [lesson_of(task)], CONFIG, seed=1)
    assert again.evaluate("validation") == after


def changed(folder, tuner):
    before = load_model(folder, targets=[]).state_dict()
    after = tuner.engine.module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def test_adapters_learn_while_the_base_stays_and_are_merged_in_the_package(
    imported,
    task,  # noqa: F811
    tmp_path,
):
    lora = LoraConfig(layers=("*",), rank=4)
    config = CONFIG.model_copy(update={"lora": lora, "learning_rate": 1e-2, "epochs": 14})
    tuner = FineTuner(imported.path, [lesson_of(task)], config, seed=1)
    before = tuner.evaluate("validation")
    for _ in range(14):
        tuner.train_epoch()
    after = tuner.evaluate("validation")
    assert after["loss"] < 0.8 * before["loss"]
    assert not changed(imported.path, tuner)
    names = [shard.name for shard in tuner.engine.shards()]
    assert all(".lora_" in name or name.startswith("targets.") for name in names)
    tuner.save(tmp_path / "state")
    moments = load_file(tmp_path / "state/training.safetensors")
    assert not any("word.weight" in name for name in moments if name.startswith("optimizer."))
    again = FineTuner(imported.path, [lesson_of(task)], config, seed=1)
    again.load(tmp_path / "state")
    assert again.evaluate("validation") == after
    tuner.write(tmp_path)
    assert not any("lora" in name for name in load_model(tmp_path).state_dict())
    plain = FineTuner(tmp_path, [lesson_of(task)], CONFIG, seed=1).evaluate("validation")
    assert plain["loss"] == pytest.approx(after["loss"], rel=1e-4)


def test_frozen_layers_stay(imported, task):  # noqa: F811
    config = CONFIG.model_copy(update={"freeze": ("embedding", "encoder.layers.0.attention")})
    tuner = FineTuner(imported.path, [lesson_of(task)], config, seed=1)
    tuner.train_epoch()
    moved = changed(imported.path, tuner)
    assert moved
    assert all("feed_forward" in name or "norm" in name for name in moved)
    assert not any(name.startswith("embedding") for name in moved)
    with pytest.raises(InputError, match="fits no parameter"):
        FineTuner(
            imported.path,
            [lesson_of(task)],
            CONFIG.model_copy(update={"freeze": ("body",)}),
            seed=1,
        )


@pytest.mark.parametrize("exportable", [True, False])
def test_a_new_head_has_the_layers_of_its_class_where_it_is_asked_for(
    imported,
    task,  # noqa: F811
    tmp_path,
    exportable,
):
    config = CONFIG.model_copy(update={"exportable": exportable, "epochs": 1})
    tuner = FineTuner(imported.path, [lesson_of(task)], config, seed=1)
    tuner.train_epoch()
    tuner.write(tmp_path)
    (tmp_path / "out").mkdir()
    if not exportable:
        with pytest.raises(InputError, match="exportable: true"):
            write_export(tmp_path, {}, tmp_path / "out")
        return
    (head,) = tuner.model.config.target
    assert (head.pooling, head.hidden, head.dropout) == ("first", True, CONFIG.dropout)
    write_export(tmp_path, {head.name: ["animal", "tool"]}, tmp_path / "out")
    theirs = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert theirs.config.id2label == {0: "animal", 1: "tool"}
