"""A package that its gate refused: in the zoo, but behind no alias."""

import json
from math import isnan, nan

import pytest

from orchestrator.cli import main
from orchestrator.config import JobConfig, validate_config
from orchestrator.errors import InputError, IntegrityError, RefusedError
from orchestrator.storage import RunFolder
from orchestrator.storage.json_files import json_bytes
from orchestrator.zoo import Zoo, commit_once, committed, conclude
from orchestrator.zoo.alias_history import alias_terms
from orchestrator.zoo.suite import SUITE_FILE, Exam, Figure, Suite, TaskSpec, read_suite

from .making import light

REASON = "spam accuracy: fell by 0.2000"


def rejected(zoo, name="base"):
    with zoo.draft(name, kind="continual") as draft:
        (draft.path / "config.json").write_text("{}")
        draft.reasons = [REASON]
        return draft.commit()


def with_suite(zoo, value, name="base"):
    spam = Exam(
        task=TaskSpec(kind="classification", head="spam", labels=("ham", "spam")),
        status="measured",
        rows=300,
        primary="accuracy",
        metrics={"accuracy": Figure(value=value, low=0.5, high=nan)},
    )
    topic = Exam(
        task=TaskSpec(kind="classification", head="topic"),
        status="unverified",
        reason="no rows are kept",
        primary="accuracy",
    )
    with zoo.draft(name, kind="finetuned", task={"kind": "x", "default": "spam"}) as draft:
        (draft.path / SUITE_FILE).parent.mkdir()
        suite = Suite(default="spam", exams={"spam": spam, "topic": topic})
        (draft.path / SUITE_FILE).write_bytes(json_bytes(suite))
        return draft.commit()


def test_a_rejected_package_is_committed_and_never_latest(any_zoo):
    light(any_zoo)
    package = rejected(any_zoo)
    assert package.rejected
    assert any_zoo.get("base/v0002").manifest.reasons == [REASON]
    assert REASON in package.read_bytes("README.md").decode()
    assert any_zoo.aliases("base") == {"latest": "v0001"}
    assert any_zoo.get("base").version == any_zoo.get("base@latest").version == "v0001"
    assert any_zoo.index().set_index("ref").loc["base/v0002", "status"] == "rejected"
    assert light(any_zoo).version == "v0003"
    assert any_zoo.get("base").version == "v0003"


def test_a_name_with_rejected_versions_only_says_so(any_zoo):
    rejected(any_zoo)
    assert any_zoo.aliases("base") == {}
    with pytest.raises(InputError, match=r"all versions are rejected .*base/v0001"):
        any_zoo.get("base")
    assert any_zoo.get("base/v0001").rejected


def test_a_damaged_latest_never_falls_back_to_a_rejected_version(zoo):
    light(zoo)
    rejected(zoo)
    light(zoo)
    (zoo.store.folder / "base" / "v0003" / "config.json").write_text("[]")
    assert zoo.get("base").version == "v0001"
    (zoo.store.folder / "base" / "v0001" / "config.json").write_text("[]")
    with pytest.raises(IntegrityError):
        zoo.get("base")


def test_promote_refuses_without_force_and_logs_who_when_and_why(any_zoo):
    light(any_zoo)
    any_zoo.promote("base/v0001")
    rejected(any_zoo)
    with pytest.raises(RefusedError, match="spam accuracy: fell") as caught:
        any_zoo.promote("base/v0002")
    assert caught.value.exit_code == 5
    assert any_zoo.aliases("base")["champion"] == "v0001"
    any_zoo.promote("base/v0002", force=True, reason="the old one leaks")
    assert any_zoo.get("base").version == "v0002"
    first, last = alias_terms(any_zoo, "base@champion")
    assert (first.forced, first.reason, first.until) == (False, None, last.since)
    assert (last.forced, last.reason, last.until) == (True, "the old one leaks", None)
    assert last.by
    assert any_zoo.rollback("base").version == "v0001"
    any_zoo.promote("base/v0002", force=True)
    assert alias_terms(any_zoo, "champion")[-1].reason == REASON


def test_history_names_what_was_live_with_its_suite(zoo, capsys):
    for value in (0.78, 0.81):
        zoo.promote(with_suite(zoo, value).ref)
    light(zoo, "other")
    zoo.promote("other/v0001")
    zoo.store.drop("base/v0001")
    assert main(["zoo", "history", "champion", "--zoo", zoo.root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("base/v0001")
    assert "spam 0.8100, topic unverified" in lines[2]
    assert " now " in lines[2]
    assert lines[3].startswith("other/v0001")
    assert main(["zoo", "history", "base@champion", "--zoo", zoo.root, "--json"]) == 0
    terms = json.loads(capsys.readouterr().out)
    assert [term["values"] for term in terms] == [None, {"spam": 0.81, "topic": None}]
    assert main(["zoo", "history", "candidate", "--zoo", zoo.root]) == 0
    assert "No package has ever held the alias 'candidate'" in capsys.readouterr().out
    for wrong, text in [("latest", "moves with every"), ("bass@champion", "Did you mean 'base'")]:
        assert main(["zoo", "history", wrong, "--zoo", zoo.root]) == 2
        assert text in capsys.readouterr().err


def test_show_prints_status_reasons_and_suite(zoo, capsys):
    package = with_suite(zoo, 0.78)
    assert main(["zoo", "show", package.ref, "--zoo", zoo.root]) == 0
    text = capsys.readouterr().out
    assert "spam (default)" in text
    assert "0.7800" in text
    assert "unverified: no rows are kept" in text
    rejected(zoo)
    assert main(["zoo", "show", "base/v0002", "--zoo", zoo.root]) == 0
    text = capsys.readouterr().out
    assert "rejected" in text
    assert REASON in text
    assert main(["zoo", "promote", "base/v0002", "--zoo", zoo.root]) == 5
    assert main(["zoo", "promote", "base/v0002", "--zoo", zoo.root, "--force"]) == 0


def test_an_undefined_figure_is_stored_as_null_and_read_as_nan(zoo):
    assert isnan(read_suite(with_suite(zoo, 0.5)).exams["spam"].metrics["accuracy"].high)


def test_rejected_versions_push_out_no_accepted_one(zoo):
    for _ in range(2):
        light(zoo)
    for _ in range(3):
        rejected(zoo)
    assert zoo.gc(keep=1).removed == ("base/v0001", "base/v0003", "base/v0004")


def run_of(tmp_path, zoo):
    run = {"name": "r", "dir": str(tmp_path / "runs"), "zoo": zoo.root}
    return RunFolder.open(validate_config(JobConfig, {"run": run}, "test"), "train")


@pytest.mark.parametrize("refused", [False, True])
def test_a_run_killed_between_commit_and_alias_moves_it_once_or_never(tmp_path, zoo, refused):
    def write(draft):
        (draft.path / "config.json").write_text("{}")
        draft.reasons = [REASON] if refused else []

    light(zoo)
    with run_of(tmp_path, zoo) as run:
        commit_once(run, "base", kind="finetuned", write=write)
    assert "champion" not in zoo.aliases("base")  # killed here
    leftovers = tmp_path / "runs" / "r" / "stream"
    leftovers.mkdir()
    with run_of(tmp_path, zoo) as run:
        assert run.finished() is None
        package = committed(run, "base")
        assert package.ref == "base/v0002"
        if refused:
            with pytest.raises(RefusedError, match="base/v0002 is refused"):
                conclude(run, package, alias="champion", leftovers=[leftovers])
        else:
            result = conclude(run, package, alias="champion", leftovers=[leftovers])
            assert (result.status, result.package) == ("done", "base/v0002")
    assert not leftovers.exists()
    champion = None if refused else "v0002"
    assert zoo.aliases("base").get("champion") == champion
    with run_of(tmp_path, zoo) as run:  # started once more
        if refused:
            with pytest.raises(RefusedError, match="spam accuracy: fell") as caught:
                run.finished()
            assert caught.value.result["run_dir"] == str(run.path)
            assert caught.value.result["reasons"] == [REASON]
        else:
            assert run.finished() == result
    assert len(Zoo(zoo.root).packages()) == 2


def test_packages_of_before_have_a_status(zoo):
    package = light(zoo)
    path = zoo.store.folder / package.ref / "manifest.json"
    content = json.loads(path.read_text())
    del content["status"], content["reasons"]
    path.write_text(json.dumps(content))
    assert not zoo.get("base/v0001").rejected
