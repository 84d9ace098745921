"""``orchestrator report`` on the command line."""

import uuid

import pytest

from orchestrator.cli import main
from orchestrator.storage.stores import open_store
from orchestrator.zoo import Zoo
from tests.support.packages import commit_tiny


def test_a_package_becomes_one_file(tmp_path, capsys):
    commit_tiny(Zoo(tmp_path / "zoo"))
    page = tmp_path / "page.html"
    assert main(["report", "tiny", "--zoo", str(tmp_path / "zoo"), "-o", str(page)]) == 0
    assert "tiny/v0001" in page.read_text()
    assert f"{page}: tiny/v0001, 0 sections" in capsys.readouterr().out


def test_a_run_on_an_object_store_is_found_by_its_address(tmp_path, capsys):
    commit_tiny(Zoo(tmp_path / "zoo"))
    run, page = f"memory://runs-{uuid.uuid4().hex}/tiny", tmp_path / "page.html"
    command = ["report", run, "--zoo", str(tmp_path / "zoo"), "-o", str(page)]
    assert main(command) == 2
    assert "the run is not finished" in capsys.readouterr().err
    open_store(run).write("result.json", b'{"package": "tiny/v0001"}')
    assert main(command) == 0
    assert "tiny/v0001" in page.read_text()


@pytest.mark.parametrize(
    ("subject", "message"), [("no/such/folder", "is not a folder"), ("unknown", "unknown")]
)
def test_unknown_subjects_are_refused(tmp_path, capsys, subject, message):
    assert main(["report", subject, "--zoo", str(tmp_path / "zoo")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


@pytest.mark.parametrize(
    ("output", "message"), [("none/x/r.html", "is not a folder"), ("", "is a folder")]
)
def test_a_page_is_written_where_a_folder_is(tmp_path, capsys, output, message):
    commit_tiny(Zoo(tmp_path / "zoo"))
    command = ["report", "tiny", "--zoo", str(tmp_path / "zoo"), "-o", str(tmp_path / output)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--output: ")
    assert message in line
    assert not (tmp_path / "none").exists()
