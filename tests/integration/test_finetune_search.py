"""Grid search through Ray Tune: what is committed is not trained again, the best is trained."""

import pytest

from orchestrator.finetuning import runner
from orchestrator.finetuning.grid import GridPayload, GridTrial, state_folder, with_values
from orchestrator.finetuning.results import EVALUATION, FinetuneEvaluation, GridValues
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.lessons import job, planned
from tests.support.streams import make_place

pytestmark = pytest.mark.slow

TRAIN = {"global_batch_size": 16, "max_length": 16, "epochs": 2, "patience": None}


def test_the_best_of_the_grid_is_trained_and_committed(local_ray, tmp_path):
    place = make_place(tmp_path)
    search = {"learning_rate": [1e-6, 1e-2]}
    train = {name: value for name, value in TRAIN.items() if name != "epochs"}
    config = job(place, train=train, search={**search, "epochs": [1, 2]})
    with RunFolder.open(config, runner.STAGE) as folder:  # as if a driver had been killed
        values = GridValues(learning_rate=1e-2, global_batch_size=16, epochs=1)
        own = planned(with_values(config, values), folder.path)
        state = state_folder(folder.path, "learning_rate=0.01,epochs=1")
        trial = GridTrial(
            GridPayload(
                job=own.model_copy(update={"learning_rate": 1e-2}), state=str(state), gpus=0
            )
        )
        committed = trial.step()
    result = runner.run(config)
    package = Zoo(place / "zoo").get(result.package)
    evaluation = package.read_model(EVALUATION, FinetuneEvaluation)
    assert len(evaluation.grid) == 4
    best = evaluation.grid[0]
    assert best.values.learning_rate == evaluation.learning_rate == 1e-2
    assert evaluation.steps == best.values.epochs * evaluation.steps_per_epoch
    assert max(best.scores) == pytest.approx(evaluation.validation["accuracy"], abs=1e-6)
    (known,) = [trial for trial in evaluation.grid if trial.values == values]
    assert known.seconds == committed.seconds  # nothing trained it again
    steps = evaluation.steps_per_epoch
    assert result.metrics["search_steps"] == (1 + 2 + 1 + 2) * steps
    assert "best of 4 trials" in evaluation.reason
    assert "search:" in (package.path / "job.yaml").read_text()
