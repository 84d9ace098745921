"""Going on with published checkpoints: import, 20 steps, export, and what transformers says."""

import json

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from orchestrator.config import dump_yaml, load_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import ConfigError, InputError, IntegrityError, RefusedError
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model, read_config
from orchestrator.pretraining import runner
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import open_inputs
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.training.events import RunStarted
from orchestrator.zoo import Zoo
from tests.support.published_tokenizers import documents, save_tokenizer

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 48}
DEBERTA = {
    "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False,
    "type_vocab_size": 0,
}  # fmt: skip
T5 = {"d_model": 24, "d_kv": 12, "d_ff": 40, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
DECODER = SIZES | {
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "num_key_value_heads": 1,
}
TOKENIZERS = {
    "qwen3": "gpt2",
    "phi3": "llama",
    "gemma2": "llama",
    "modernbert": "bert",
    "deberta": "bert",
}
"""Families whose tokenizers are of another one's kind."""
MODELS = {
    "bert": lambda size: transformers.BertForMaskedLM(
        transformers.BertConfig(
            **SIZES, **QUIET, vocab_size=size, intermediate_size=40, max_position_embeddings=48
        )
    ),
    "roberta": lambda size: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            **SIZES, **QUIET, vocab_size=size, intermediate_size=40, max_position_embeddings=50
        )
    ),
    "modernbert": lambda size: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            **SIZES, vocab_size=size, intermediate_size=40, max_position_embeddings=48,
            local_attention=8, pad_token_id=0, cls_token_id=101,
            sep_token_id=102, bos_token_id=101, eos_token_id=102,
        )
    ),
    "deberta": lambda size: transformers.DebertaV2ForMaskedLM(
        transformers.DebertaV2Config(
            **SIZES, **QUIET, **DEBERTA, vocab_size=size, intermediate_size=40,
            max_position_embeddings=48, pooler_hidden_size=24,
        )
    ),
    "gpt2": lambda size: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **GPT2, vocab_size=size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=size - 1, eos_token_id=size - 1,
        )
    ),
    "llama": lambda size: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SIZES, vocab_size=size, intermediate_size=40, max_position_embeddings=48,
            num_key_value_heads=1,
        )
    ),
    "qwen3": lambda size: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**DECODER, vocab_size=size, head_dim=16)
    ),
    "phi3": lambda size: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**DECODER, vocab_size=size, sliding_window=7, pad_token_id=0)
    ),
    "gemma2": lambda size: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**DECODER, vocab_size=size, head_dim=16, sliding_window=7)
    ),
    "t5": lambda size: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, vocab_size=size + 6, decoder_start_token_id=0)
    ),
}  # fmt: skip
CLASSES = {
    **dict.fromkeys(MODELS, AutoModelForCausalLM),
    "bert": AutoModelForMaskedLM,
    "roberta": AutoModelForMaskedLM,
    "modernbert": AutoModelForMaskedLM,
    "deberta": AutoModelForMaskedLM,
    "t5": AutoModelForSeq2SeqLM,
}
TARGET = {name: "mlm" if cls is AutoModelForMaskedLM else "lm" for name, cls in CLASSES.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A zoo with the checkpoints, their folders, and a corpus."""
    root = tmp_path_factory.mktemp("continued")
    (root / "texts.txt").write_text("\n".join(documents(160, seed=5)))
    (root / "old.txt").write_text("\n".join(documents(80, seed=9)))
    for number, (family, make) in enumerate(MODELS.items()):
        folder = root / family
        size = save_tokenizer(TOKENIZERS.get(family, family), folder, 48)
        torch.manual_seed(number)
        make(size).save_pretrained(folder)
        import_checkpoint(Zoo(root / "zoo"), f"hf:{folder}", ImportOptions(licence="MIT"))
    return root


@pytest.fixture
def make_config(place, tmp_path):
    def make(family, *overrides):
        spans = ["samples.type=spans"] if family == "t5" else []
        given = [
            f"model.from={family}",
            f"run.dir={tmp_path}/runs",
            f"run.zoo={place}/zoo",
            f"data.data.source=files:{place}/texts.txt",
            "data.block_size=24",
            f"package.name={family}-on",
            "train={max_steps: 20, global_batch_size: 8, micro_batch_size: 8, log_every_steps: 1,"
            " checkpoint_every_steps: 5, eval_blocks: 8}",
            *spans,
            *overrides,
        ]
        return load_config(PretrainConfig, None, given)

    return make


def train(worker, config):
    """Run a job to its end without a cluster; return its package, or None when it stopped."""
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        job = work.prepare()
        summary = pretrain(worker.within(run.path), job)
        if summary.stopped:
            return None, job
        work.commit(summary)
        return Zoo(config.run.zoo).get(work.result().package), job


def test_a_run_is_prolonged_with_the_warm_up_that_it_began_with(make_config, tmp_path):
    """A share of the steps: a longer run of its own would have another."""
    constant = "train.schedule.type=constant"
    first = make_config("bert", constant, "train.max_steps=100")
    assert first.train.schedule.warmup_steps == 6
    RunFolder.open(first, runner.STAGE).close()
    longer = make_config("bert", constant, "train.max_steps=200")
    assert longer.train.schedule.warmup_steps == 6
    with RunFolder.open(longer, runner.STAGE) as run:
        assert set(run.changed) == {"train.max_steps"}
    other = make_config("bert", constant, "train.max_steps=200", "run.name=other")
    assert other.train.schedule.warmup_steps == 12


def their_loss(folder, family, job):
    """Loss of transformers' own class on the batch of the first step."""
    (batch,) = open_inputs(job).steps().window(0)
    model = CLASSES[family].from_pretrained(folder, dtype=torch.float32).eval()
    labels = batch[f"labels.{TARGET[family]}"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if family == "t5":
        inputs |= {name: batch[name] for name in ("decoder_input_ids", "decoder_attention_mask")}
    if CLASSES[family] is AutoModelForCausalLM:  # ours are shifted already
        inputs["shift_labels"] = labels
    with torch.no_grad():
        return float(model(**inputs, labels=labels).loss)


@pytest.mark.parametrize("family", list(MODELS))
def test_a_published_checkpoint_goes_on(place, make_config, alone, tmp_path, family):
    config = make_config(family)
    assert f"weights of {family}/v0001, step 0, no new heads" in runner.check(config)
    package, job = train(alone, config)
    history = package.history()
    losses = history[(history.split == "train") & (history.metric == "loss")]
    first = losses[losses.step == 1].value.item()
    assert first == pytest.approx(their_loss(place / family, family, job), abs=1e-5)
    assert losses[losses.step == 20].value.item() < first

    parent = Zoo(config.run.zoo).get(family)
    assert [each.ref for each in package.manifest.parents] == [parent.ref]
    assert package.manifest.licence == "MIT"
    assert package.manifest.task.max_length == parent.manifest.task.max_length
    assert TextProcessor.load(package.path).max_length == 48  # not the 24 of a block
    export_package(package, tmp_path / "out")
    original = (place / family / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == original
    model, info = CLASSES[family].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (
        type(model).__name__
        == json.loads((place / family / "config.json").read_text())["architectures"][0]
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = CLASSES[family].from_pretrained(place / family)
    assert model.config.to_dict() == before.config.to_dict() | {
        "dtype": model.config.to_dict()["dtype"],
        "_name_or_path": str(tmp_path / "out"),
    }
    words = "get_input_embeddings"
    assert not torch.equal(getattr(model, words)().weight, getattr(before, words)().weight)


def test_the_learning_rate_and_the_warm_up_have_a_rule(make_config):
    config = make_config("bert")
    assert config.train.optimizer.learning_rate == 4e-4  # imported, narrower than BERT
    assert config.train.schedule.warmup_steps == 1
    given = make_config(
        "bert", "train.optimizer.learning_rate=0.01", "train.schedule.warmup_steps=3"
    )
    assert given.train.optimizer.learning_rate == 0.01
    assert given.train.schedule.warmup_steps == 3
    assert "learning rate 0.0004" in runner.check(config)
    with pytest.raises(ConfigError, match=r"train.optimizer.learning_rate.*type: lion"):
        make_config("bert", "train.optimizer.type=lion")


def test_the_run_is_named_after_its_package_and_its_config_runs_again(make_config, tmp_path):
    config = make_config("bert")
    assert config.run.name == "pretrain-bert-on"
    (tmp_path / "job.yaml").write_text(dump_yaml(config))
    assert load_config(PretrainConfig, tmp_path / "job.yaml") == config


CONTRADICTIONS = [
    (["model.hidden_size=32"], r"model\.hidden_size.*comes from bert \(model\.from\)"),
    (["model.encoder.num_layers=3"], r"model\.encoder.*comes from bert"),
    (["data.tokenizer.vocab_size=400"], r"data\.tokenizer.*comes from bert"),
    (["train.start_from.package=gpt2"], r"train\.start_from.*both name a start"),
]


@pytest.mark.parametrize(("overrides", "says"), CONTRADICTIONS)
def test_what_contradicts_the_package_is_refused(make_config, overrides, says):
    with pytest.raises(ConfigError, match=says):
        make_config("bert", *overrides)


def test_an_objective_without_its_role_is_refused_before_work(make_config, place, tmp_path):
    with pytest.raises(ConfigError, match="reads only what is before it"):
        make_config("gpt2", "model.target=mlm")
    with pytest.raises(InputError, match=r"no mask token .it has pad, unk, sep, eos"):
        runner.check(make_config("t5", "samples.type=denoising"))
    with pytest.raises(InputError, match="nobody"):
        make_config("nobody")
    assert not (tmp_path / "runs").exists()


def test_a_head_that_the_package_lacks_is_made_and_said(make_config, alone, tmp_path):
    config = make_config("bert", "model.target=[mlm, nsp]")
    assert "new heads: nsp" in runner.check(config)
    package, _ = train(alone, config)
    kept = read_config(Zoo(config.run.zoo).get("bert").path).target[0]
    assert read_config(package.path).target[0] == kept
    assert not (package.path / "huggingface.json").exists()
    export_package(package, tmp_path / "out")
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(model) is transformers.BertForPreTraining
    assert tokenizer("a")["input_ids"][0] == 101


def test_a_body_needs_a_target(make_config, place):
    folder = place / "body"
    size = save_tokenizer("bert", folder, 48)
    config = transformers.BertConfig(
        **SIZES, **QUIET, vocab_size=size, intermediate_size=40, max_position_embeddings=48
    )
    transformers.BertModel(config).save_pretrained(folder)
    import_checkpoint(Zoo(place / "zoo"), f"hf:{folder}", ImportOptions())
    with pytest.raises(ConfigError, match=r"model\.target.*is needed: no head of body/v0001"):
        make_config("body")
    assert "new heads: mlm" in runner.check(make_config("body", "model.target=mlm"))


def test_a_stopped_run_goes_on_bit_for_bit_although_the_alias_moved(
    place, make_config, alone, tmp_path
):
    zoo = Zoo(place / "zoo")
    zoo.promote("roberta/v0001", "moving")
    config = make_config("roberta", "model.from=roberta@moving", "run.name=stopped")
    alone.stop_after.append(5)
    alone.emit(RunStarted(run="r", step=5))
    assert train(alone, config)[0] is None
    import_checkpoint(zoo, f"hf:{place / 'roberta'}", ImportOptions())
    zoo.promote("roberta/v0002", "moving")
    alone.stop_after.clear()
    again = make_config("roberta", "model.from=roberta@moving", "run.name=stopped")
    package, _ = train(alone, again)
    assert [each.ref for each in package.manifest.parents] == ["roberta/v0001"]
    whole, _ = train(alone, make_config("roberta", "model.from=roberta/v0001", "run.name=whole"))
    ours, theirs = (load_model(each.path).state_dict() for each in (package, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_package_under_the_same_name_is_noticed(place, make_config, alone, tmp_path):
    config = make_config("llama", "run.name=pinned")
    alone.stop_after.append(5)
    alone.emit(RunStarted(run="r", step=5))
    train(alone, config)
    journal = next((tmp_path / "runs" / "pinned").rglob("start.json"))
    with RunFolder.open(config, runner.STAGE) as run:
        payload = run.done("start")
        run.mark("start", payload | {"manifest_sha256": "0" * 64})
    assert journal.is_file()
    with pytest.raises(IntegrityError, match="not the package that the run began with"):
        train(alone, config)


def guarded(make_config, place, rise, *overrides):
    return make_config(
        "bert",
        f"guard={{data: {{source: 'files:{place}/old.txt'}}, max_rise: {rise}}}",
        "train.eval_every_steps=5",
        *overrides,
    )


def test_the_guard_measures_the_old_text_and_reports_it(place, make_config, alone):
    package, _ = train(alone, guarded(make_config, place, 0.5))
    history = package.history()
    rows = history[history.metric == "guard.loss"]
    assert rows.step.tolist() == [0, 5, 10, 15, 20]
    metrics = package.manifest.metrics
    assert metrics["baseline_guard_loss"] == pytest.approx(rows.value.iloc[0])
    assert metrics["guard_loss"] == pytest.approx(rows.value.iloc[-1])
    assert metrics["guard_loss"] < metrics["baseline_guard_loss"]  # the same words


def test_a_loss_that_rises_too_far_ends_the_run_and_is_refused(place, make_config, alone):
    config = guarded(
        make_config, place, 0.01, "train.optimizer.learning_rate=3.0", "package.name=forgot",
        "train.max_grad_norm=null",
    )  # fmt: skip
    with pytest.raises(RefusedError, match=r"the loss over files:.* rose from .*max_rise is 0.01"):
        train(alone, config)
    zoo = Zoo(config.run.zoo)
    package = zoo.get("forgot/v0001")
    assert package.rejected
    assert package.history().step.max() == 5
    with pytest.raises(RefusedError):  # recorded: the same command says it again
        train(alone, config)


def test_a_guard_needs_a_start_and_documents(make_config, place):
    guard = f"guard={{data: {{source: 'files:{place}/old.txt'}}}}"
    with pytest.raises(ConfigError, match="is for runs from a package"):
        load_config(
            PretrainConfig,
            None,
            ["run.name=x", "package.name=x", "model={encoder: {type: transformer}, target: mlm}",
             guard],
        )  # fmt: skip
    with pytest.raises(ConfigError, match="is not a corpus"):
        make_config("bert", "guard={data: {source: 'builtin:digits'}}")
