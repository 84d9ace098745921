"""A job that names a prepared corpus is the job that made it."""

from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.worker import pretrain


def test_a_job_trains_on_a_prepared_corpus_as_on_its_own(alone, make_config, tmp_path):
    own = make_config("train.max_steps=2", "train.eval_every_steps=0")
    made = prepare_inputs(own, tmp_path / "corpora").corpus
    told = make_config(
        f"data={{prepared: '{made.path}'}}", "train.max_steps=2", "train.eval_every_steps=0"
    )
    assert told.data.block_size == 16
    found = []
    for number, config in enumerate((own, told)):
        inputs = prepare_inputs(config, tmp_path / "corpora")
        assert inputs.corpus.path == made.path
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(pretrain(alone.within(folder), inputs.job(folder)))
    assert found[0].validation == found[1].validation
    assert found[0].unigram_entropy == found[1].unigram_entropy
