import argparse
import json

import pytest

from orchestrator.errors import InputError
from orchestrator.zoo import cli

from .making import light, make


def run(zoo, *arguments):
    """Parse and run like the command line does; returns the exit code and what was written."""
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers(required=True))
    options = parser.parse_args(
        ["zoo", *arguments, "--zoo", zoo if isinstance(zoo, str) else zoo.root]
    )
    written = []
    command = COMMANDS[arguments[0]]
    return command(options, written.append), "".join(written)


COMMANDS = {
    "list": cli.list_packages, "show": cli.show_package, "verify": cli.verify_packages,
    "promote": cli.promote_package, "rollback": cli.rollback_alias, "lineage": cli.show_lineage,
    "gc": cli.collect_garbage,
}  # fmt: skip


@pytest.fixture
def filled(zoo):
    make(zoo, metrics={"accuracy": 0.5}, task={"kind": "mlm"}, licence="mit")
    light(zoo)
    light(zoo, "child", kind="finetuned", parents=["base/v0001"])
    return zoo


@pytest.mark.parametrize("root", ["missing", "empty"])
def test_an_empty_zoo_says_what_to_do(tmp_path, root):
    (tmp_path / "empty").mkdir()
    code, text = run(str(tmp_path / root), "list")
    assert code == 0
    assert "holds no packages. `orchestrator demo` and `orchestrator pretrain` make some" in text
    assert run(str(tmp_path / root), "list", "--json") == (0, "[]\n")


def test_list_is_one_line_a_package(filled):
    filled.promote("base/v0001")
    code, text = run(filled, "list")
    lines = text.splitlines()
    assert code == 0
    assert lines[0].split() == ["package", "kind", "status", "task", "aliases", "size", "created"]
    assert [line.split()[0] for line in lines[1:4]] == ["base/v0001", "base/v0002", "child/v0001"]
    assert "champion" in lines[1]
    rows = json.loads(run(filled, "list", "--json")[1])
    assert rows[0]["ref"] == "base/v0001"
    assert rows[0]["metric.accuracy"] == 0.5
    assert rows[1]["metric.accuracy"] is None


def test_show_says_everything_about_a_package(filled):
    code, text = run(filled, "show", "base/v0001")
    assert code == 0
    for part in ("pretrained", "mit", "mlm (text)", "accuracy", "model.safetensors", filled.root):
        assert part in text
    content = json.loads(run(filled, "show", "child", "--json")[1])
    assert content["parents"][0]["version"] == "v0001"
    assert content["location"] == f"{filled.root}/child/v0001"


def test_verify_ends_with_4_when_something_is_damaged(filled):
    code, text = run(filled, "verify")
    assert (code, text.splitlines()[-1]) == (0, "3 of 3 whole.")
    (filled.get("base/v0002").path / "config.json").write_text("[]")
    code, text = run(filled, "verify")
    assert code == 4
    assert "config.json: damaged" in text
    assert text.splitlines()[-1] == "2 of 3 whole."
    assert run(filled, "verify", "base/v0001")[0] == 0
    code, text = run(filled, "verify", "base", "--json")
    assert code == 4
    assert json.loads(text)[0]["ok"] is False


def test_promote_and_rollback_say_where_the_alias_is(filled):
    assert run(filled, "promote", "base/v0001") == (0, "base@champion → base/v0001\n")
    assert run(filled, "promote", "base/v0002") == (0, "base@champion → base/v0002\n")
    assert run(filled, "rollback", "base") == (0, "base@champion → base/v0001\n")
    text = run(filled, "promote", "base/v0002", "--alias", "candidate", "--json")[1]
    assert json.loads(text) == {"alias": "base@candidate", "package": "base/v0002"}
    with pytest.raises(InputError):
        run(filled, "rollback", "child")


def test_lineage_is_a_tree_and_ends_with_4_when_it_is_broken(filled):
    code, text = run(filled, "lineage", "child")
    assert code == 0
    assert text.splitlines()[2].startswith("  base/v0001")
    filled.store.drop("base/v0001")
    code, text = run(filled, "lineage", "child")
    assert code == 4
    assert "missing" in text
    assert json.loads(run(filled, "lineage", "child", "--json")[1])[1]["status"] == "missing"


def test_gc_removes_only_when_told(filled):
    light(filled)
    light(filled)
    code, text = run(filled, "gc", "--keep", "1")
    assert code == 0
    assert "would go" in text
    assert "Run again with --delete" in text
    assert len(filled.packages()) == 5
    code, text = run(filled, "gc", "--keep", "1", "--delete")
    assert "base/v0002   removed" in text
    assert "parent of child/v0001" in text
    assert len(filled.packages()) == 3
    assert json.loads(run(filled, "gc", "--json")[1])["dry_run"] is True


def test_control_characters_never_reach_the_terminal(zoo):
    light(zoo, metrics={"x\x1b[31m": 1}, licence="\x1b]0;evil\x07")
    for arguments in (("list",), ("show", "base")):
        text = run(zoo, *arguments)[1]
        assert all(char.isprintable() or char == "\n" for char in text)


def test_the_verb_runs_through_the_parser(filled, capsys):
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers(required=True))
    options = parser.parse_args(["zoo", "list", "--zoo", filled.root])
    assert options.func(options) == 0
    assert "base/v0001" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parser.parse_args(["zoo"])
