import pytest

from orchestrator.data.sources import docstrings
from orchestrator.data.sources.docstrings import read_docstrings

SOURCE = '''
"""A module that says at some length what it is good for."""
raise SystemExit("this file must not be executed")

def value(a, b=1, *rest, key, **others) -> int:
    """Return the value of something that has a long name."""
    if a:
        return b
    raise ValueError

def nothing(a):
    """Print the value of something that has a long name."""
    def inner():
        """An inner function that is part of no interface at all."""
        return 1
    print(inner())
    return

def stub():
    """Hold the place of something that somebody else must write."""
    raise NotImplementedError

def numbers():
    """Yield the numbers that belong to something with a long name."""
    yield 1

def declared() -> None:
    """Do something with a long name, and say that nothing comes back."""
    ...

def short():
    """Too short."""

try:
    class Thing(object):
        """A thing that has a docstring although it stands inside a try."""

        def __init__(self, size):
            self.size = size

        @property
        def width(self):
            """Width of the thing in metres, measured from left to right."""
            return 1

        @classmethod
        def make(cls, size, *, color):
            """Make a thing of the given size and of the given color.

            Indented text keeps its shape.
                Like this.
            """
            return cls(size)

        async def wait(self):
            r"""Wait until the thing is \\done, which can take a long time."""
            with self:
                return None
except ImportError:
    def fallback(a, b):
        """Do the same as the thing above, but without the thing itself."""
        x = 1
'''


@pytest.fixture
def found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    documents, reason = read_docstrings(file, "pkg.module")
    assert reason is None
    return {document.path: document for document in documents}


def test_every_documented_object_is_found_once(found):
    names = ["value", "nothing", "stub", "numbers", "declared", "Thing", "fallback"]
    methods = ["Thing.width", "Thing.make", "Thing.wait"]
    assert sorted(found) == sorted(["pkg.module", *(f"pkg.module.{n}" for n in names + methods)])


@pytest.mark.parametrize(
    ("name", "kind", "arguments", "returns", "raises", "is_property"),
    [
        ("", "module", -1, None, None, False),
        (".value", "function", 5, True, True, False),
        (".nothing", "function", 1, False, False, False),
        (".stub", "function", 0, None, None, False),
        (".numbers", "function", 0, None, False, False),
        (".declared", "function", 0, False, None, False),
        (".Thing", "class", -1, None, None, False),
        (".Thing.width", "method", 0, True, False, True),
        (".Thing.make", "method", 2, True, False, False),
        (".Thing.wait", "method", 0, False, False, False),
        (".fallback", "function", 2, False, False, False),
    ],
)
def test_facts(found, name, kind, arguments, returns, raises, is_property):
    document = found[f"pkg.module{name}"]
    assert document[1:] == (
        kind, f"pkg.module{name}", arguments, returns, raises, is_property
    )  # fmt: skip


def test_indentation_is_removed(found):
    lines = found["pkg.module.Thing.make"].text.split("\n")
    assert lines[2:] == ["Indented text keeps its shape.", "    Like this."]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'def f(:\n    """A docstring in a file that is not Python."""', "not parseable"),
        (b'"""A docstring with a byte that is not UTF-8: \xff, and more text."""', "not parseable"),
        (b'"""A docstring and a null byte, which Python refuses to read."""\0', "not parseable"),
    ],
)
def test_unreadable_files_have_a_reason(tmp_path, content, reason):
    file = tmp_path / "x.py"
    file.write_bytes(content)
    assert read_docstrings(file, "x") == ([], reason)


def test_declared_encodings_are_read(tmp_path):
    file = tmp_path / "x.py"
    file.write_bytes(
        '# coding: latin-1\n"""Grüße aus einem Modul in einer alten Kodierung."""'.encode("latin-1")
    )
    assert read_docstrings(file, "x")[0][0].text.startswith("Grüße")


def test_lone_surrogates_do_not_reach_the_corpus(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""A docstring with half a character \\ud800 in the middle of it."""')
    stored = read_docstrings(file, "x")[0][0].text.encode("utf-8")
    assert b"half a character" in stored


def test_long_files_are_sampled_and_huge_ones_left_out(tmp_path, monkeypatch):
    file = tmp_path / "x.py"
    one = 'def f{0}():\n    """Return the number {0} after a long time of thinking."""\n'
    file.write_text("".join(one.format(i) for i in range(300)))
    found, _ = read_docstrings(file, "x")
    assert 30 < len(found) <= docstrings.DOCUMENTS_PER_FILE
    assert found[-1].path > "x.f2"  # from the whole file, not from its beginning
    monkeypatch.setattr(docstrings, "MAX_FILE_BYTES", 1000)
    assert read_docstrings(file, "x") == ([], "file too large")
