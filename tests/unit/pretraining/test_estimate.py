"""Clusters on paper: figures of published work, and the table of a job."""

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config import dump_yaml
from orchestrator.pretraining.estimate_clusters import (
    ACCELERATORS,
    RESERVED,
    Accelerator,
    Job,
    sent_values,
    state_bytes,
    step_seconds,
)

LARGE = [
    "model.hidden_size=4096", "model.vocab_size=32000",
    "model.encoder={type: transformer, num_layers: 24, num_heads: 32}",
    "engine.precision=bf16", "train.global_batch_size=512", "train.micro_batch_size=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("billions", "workers", "expected"),
    [
        (7.5, 64, (120, 31.4, 16.6, 1.88)),  # figure 1 and table 1 of the paper, 10^9 bytes
        (7.5, 4, (120, 52.5, 41.3, 30)),
        (7.5, 1024, (120, 30.1, 15.1, 0.12)),
        (128, 64, (2048, 536, 284, 32)),
        (1000, 1024, (16000, 4011, 2013, 15.6)),
    ],
)
def test_states_are_those_of_the_zero_paper(billions, workers, expected):
    found = [state_bytes(billions * 1e9, workers, stage) / 1e9 for stage in range(4)]
    assert found == pytest.approx(expected, rel=0.01, abs=0.003)


def test_traffic_is_that_of_the_zero_paper():
    """Section 7: 2 N for plain data parallelism, the same for stages 1 and 2, 3 N for stage 3."""
    assert [sent_values(10.0, stage) for stage in range(4)] == [20, 20, 20, 30]
    assert [sent_values(10.0, stage, 4) for stage in range(4)] == [20, 20, 50, 120]


def test_time_is_that_of_narayanan_et_al_2021():
    """Section 5.1: 175e9 parameters, 300e9 tokens, recomputed, 1024 A100s at 140e12 a second."""
    flops = 8 * 175e9 * 300e9
    peak = ACCELERATORS["a100"].half_flops
    assert step_seconds(flops, 1024, peak, 140e12 / peak) / 86400 == pytest.approx(34, abs=0.2)


@pytest.fixture
def job(make_config):
    def make(*overrides, memory=80e9):
        config = make_config(*LARGE, *overrides)
        return Job.of(config, config.model, Accelerator(memory, 1e15, 1e14, 1e11, 1e10), 0.5)

    return make


def test_rows_follow_the_formulas(job):
    large = job()
    row = large.row(64, 3)
    assert row.global_batch == 512
    assert row.micro_batch * row.micro_batches == 8
    flops = 512 * large.flops_a_sample
    assert row.seconds == flops / (64 * 1e15 * 0.5)
    assert row.days == pytest.approx(row.seconds * large.config.train.max_steps / 86400)
    assert row.sent == 2 * 3 * row.micro_batches * large.sizes.trained
    assert large.row(1, 3).sent == 0
    assert large.row(512, 0).sent == 4 * 2 * large.sizes.trained  # our DDP reduces in fp32


def test_cut_layers_are_counted(job):
    """A rank keeps and gathers less, reads the samples of its group, and sends sums of layers."""
    whole, cut = (
        job("engine={type: fsdp2, precision: bf16}"),
        job("engine={type: fsdp2, precision: bf16, tensor_parallel: 8}", "cluster.workers=8"),
    )
    assert [row.stage for row in cut.rows([64])] == [3]
    row = cut.row(64, 3)
    assert row.global_batch == 512
    assert row.micro_batch * row.micro_batches == 64  # of 8 groups
    config, sizes = cut.config, cut.sizes
    used = sizes.block - sizes.layers * 7 / 8
    positions = 64 * config.data.block_size
    sums = cut.model.encoder.num_layers * 4 * 2 * 7 / 8 * positions * cut.model.hidden_size
    weights = 3 * row.micro_batches * sizes.trained * used / sizes.block
    assert row.sent == pytest.approx(2 * (weights + sums), rel=1e-6)
    narrow = cut.memory(64, 3, 4, 1)
    positions_cut = job(
        "engine={type: fsdp2, precision: bf16, tensor_parallel: 8, sequence_parallel: true}",
        "cluster.workers=8",
    ).memory(64, 3, 4, 1)
    assert positions_cut.backward < narrow.backward < whole.memory(64, 3, 4, 1).backward
    assert narrow.weights == -(-4 * sizes.total // 64)  # each element on one worker


def test_what_the_network_cannot_carry_is_marked(job, make_config, tmp_path, capsys):
    large = job()
    rows = {workers: large.row(workers, 3) for workers in (1, 8, 64)}
    assert [rows[1].needed, rows[8].limit, rows[64].limit] == [0, 1e11, 1e10]
    assert rows[64].needed == rows[64].sent / rows[64].seconds
    file = tmp_path / "job.yaml"
    file.write_text(dump_yaml(make_config(*LARGE)))
    command = ["estimate", "-c", str(file), "--workers", "64", "--network"]
    marked = []
    for network in ("1e9", "0.001"):
        assert main([*command, network]) == 0
        marked.append(capsys.readouterr().out.count("GB/s!"))
    assert marked == [0, 4]


def test_the_largest_micro_batch_is_the_largest_that_fits(job):
    large = job()
    row = large.row(64, 3)
    assert row.memory.on_accelerator <= 80e9 - RESERVED
    wider = job(memory=row.memory.on_accelerator + RESERVED + 1).row(64, 3)
    assert wider.micro_batch == row.micro_batch
    assert not job(memory=20e9).row(64, 0).fits
    assert job(memory=20e9).row(64, 0).micro_batch == 0


def test_more_workers_and_higher_stages_leave_more_room(job):
    large = job()
    kept = [large.row(64, stage).memory.kept for stage in range(4)]
    assert kept == sorted(kept, reverse=True)
    assert (
        large.row(512, 3).memory.kept < large.row(64, 3).memory.kept < large.row(8, 3).memory.kept
    )


def test_a_batch_smaller_than_the_cluster_grows(job):
    small = job("train.global_batch_size=3", "train.micro_batch_size=1")
    assert [small.row(workers, 1).global_batch for workers in (2, 3, 8)] == [4, 3, 8]


def test_offload_is_kept_where_a_stage_has_it(job):
    moved = job("engine.type=zero", "engine.offload={optimizer: cpu}")
    plain = job("engine.type=zero")
    for stage in (1, 2, 3):
        assert moved.row(8, stage).memory.offloaded > 0
        assert moved.memory(8, stage, 1, 1).on_accelerator < plain.memory(8, stage, 1, 1).total
    assert moved.row(8, 0).memory.offloaded == 0


def test_the_verb_writes_a_table_and_its_formulas(make_config, tmp_path, capsys):
    file = tmp_path / "job.yaml"
    file.write_text(dump_yaml(make_config()))
    assert yaml.safe_load(file.read_text())["run"]
    code = main(["estimate", "-c", str(file), "--workers", "2,16", "--accelerator", "a100"])
    text = capsys.readouterr().out
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert [(line[0], line[1]) for line in lines if line[:1] in (["2"], ["16"])] == [
        (workers, str(stage)) for workers in ("2", "16") for stage in range(4)
    ]
    for part in ("19.5 TFLOP/s", "(w+(g+k)/workers)N", "stage 3 3aN", "MFU 0.4", "memory = "):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "8,many"], "is not a list of sizes"),
        (["--accelerator", "abacus"], "is not known. Use v100"),
        (["--network", "0"], "is not above 0"),
        (["--mfu", "1.5"], "is not in (0, 1]"),
    ],
)
def test_wrong_options_are_named(make_config, tmp_path, capsys, options, message):
    file = tmp_path / "job.yaml"
    file.write_text(dump_yaml(make_config()))
    assert main(["estimate", "-c", str(file), *options]) == 2
    assert message in capsys.readouterr().err
