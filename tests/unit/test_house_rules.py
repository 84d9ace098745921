"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("orchestrator", "serving", "jobs")
STAGES = ("finetuning", "pretraining", "selection", "continual", "quantization")

# room -> rooms it may import (and itself). `errors` and `arrays` are open to all.
ALLOWED = {
    "errors": set(),
    "arrays": set(),
    "config": set(),
    "storage": {"config"},
    "zoo": {"config", "storage"},
    "modeling": {"config", "storage", "zoo"},
    "data": {"config", "storage", "zoo"},
    "tasks": {"config", "storage", "zoo", "modeling", "data"},
    "inference": {"config", "storage", "zoo", "modeling", "data", "tasks"},
    "training": {"config", "storage", "zoo", "modeling", "data", "tasks", "inference"},
    "cluster": {"config", "storage", "zoo", "modeling", "data", "tasks", "inference", "training"},
    **{
        stage: {"config", "storage", "zoo", "modeling", "data", "tasks", "inference", "training"}
        for stage in STAGES
    },
    "report": {"config", "storage", "zoo"},  # and the typed results of the stages, see below
    "doctor": set(),
    "serving": {"config", "storage", "zoo", "modeling", "data", "tasks", "inference"},
}
# These tie rooms together and may use every room.
COMPOSERS = {"api", "cli", "demo", "jobs"}


def python_files():
    return sorted(
        path
        for room in PRODUCT
        for path in (ROOT / room).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "orchestrator":
        return parts[1] if len(parts) > 1 else "orchestrator"
    return parts[0]


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Every module named in an import statement, at any depth of the file."""
    return tuple(_imports_of(path))


def _imports_of(path: Path):
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            if module == "orchestrator":
                yield from (f"orchestrator.{alias.name}" for alias in node.names)


def test_rooms_import_only_what_the_design_allows():
    wrong = []
    for path in python_files():
        room = room_of(module_name(path))
        if room in COMPOSERS or room == "orchestrator":
            continue
        allowed = ALLOWED[room] | {room, "errors", "arrays", "orchestrator"}
        if room in STAGES and is_runner(path):
            allowed |= {"cluster"}
        for module in imports_of(path):
            if module.split(".")[0] not in PRODUCT:
                continue
            if room == "inference" and module.startswith("orchestrator.quantization.backends"):
                continue
            if room == "report" and module.endswith("results"):
                continue
            if (
                room == "serving"
                and path.name in {"cli.py", "local.py"}
                and room_of(module) == "cluster"
            ):
                continue  # the `serve` verb starts Ray through the one place that knows how
            if room_of(module) not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def is_runner(path: Path) -> bool:
    """Return whether a file is the part of a stage that runs on the cluster."""
    return path.name == "runner.py" or path.name.endswith("_runner.py")


def may_import_ray(path: Path) -> bool:
    room = room_of(module_name(path))
    return (
        room in {"cluster", "serving", "data"}
        or (room in STAGES and is_runner(path))
        or path == ROOT / "orchestrator/selection/trials/scheduler.py"
    )


def test_ray_is_imported_only_where_it_belongs():
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files()
        if not may_import_ray(path)
        for module in imports_of(path)
        if module.split(".")[0] == "ray"
    ]
    assert not wrong, "\n".join(wrong)


def test_deepspeed_is_imported_in_one_file():
    files = {
        str(path.relative_to(ROOT))
        for path in python_files()
        for module in imports_of(path)
        if module.split(".")[0] == "deepspeed"
    }
    assert files == {"orchestrator/cluster/engines/deepspeed_zero.py"}


# DeepSpeed's own checkpoints in run folders, and TencentPretrain's weights, which have no other
# form; the latter are opened with `weights_only` and become safetensors at once.
UNPICKLES = {"deepspeed_zero.py", "tencentpretrain/weights.py"}


def test_nothing_is_unpickled():
    wrong = []
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        allowed = any(path.as_posix().endswith(f"/{name}") for name in UNPICKLES)
        if "torch.load(" in text and (not allowed or "weights_only=False" in text):
            wrong.append(str(path.relative_to(ROOT)))
        if {"pickle", "cloudpickle", "dill", "joblib"} & {
            m.split(".")[0] for m in imports_of(path)
        }:
            wrong.append(str(path.relative_to(ROOT)))
        if "trust_remote_code=True" in text or "allow_pickle=True" in text:
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


@pytest.mark.parametrize(
    "module",
    [
        "orchestrator",
        "orchestrator.cli",
        "orchestrator.config",
        "orchestrator.pretraining.config",
        "orchestrator.finetuning.config",
        "orchestrator.finetuning.results",
        "orchestrator.selection.config",
        "orchestrator.continual.config",
        "orchestrator.continual.results",
        "orchestrator.quantization.config",
        "orchestrator.demo.config",
        "orchestrator.finetuning.evaluating.config",
        "orchestrator.finetuning.evaluating.results",
        "orchestrator.finetuning.generating.config",
        "orchestrator.finetuning.predicting.config",
        "orchestrator.finetuning.predicting.results",
        "serving.config",
    ],
)
def test_configs_load_without_the_heavy_libraries(module):
    code = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'ray', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    assert fresh_python(code).strip() == "[]"


def test_a_replica_starts_without_the_libraries_that_only_measuring_needs():
    code = (
        "import sys, serving.model.engine; "
        "heavy = {'torch', 'ray', 'scipy.stats', 'sklearn', 'transformers'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert fresh_python(code).strip() == "[]"


def test_import_orchestrator_takes_under_300_ms():
    """In CPU time of the process, which a busy neighbour does not change."""
    code = (
        "import sys, time; start = time.process_time(); import orchestrator; "
        "print(time.process_time() - start, {'torch', 'ray'} & set(sys.modules) or 'light')"
    )
    seconds, light = fresh_python(code).split()
    assert float(seconds) < 0.3
    assert light == "light"


def fresh_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_job_scripts_are_thin():
    scripts = [path for path in (ROOT / "jobs").glob("*.py") if path.name != "__init__.py"]
    assert {path.stem for path in scripts} >= {"pretrain", "select", "continual", "quantize"}
    for path in scripts:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 50, path.name


def test_files_and_functions_stay_readable():
    wrong = []
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > 350:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines (350 allowed)")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = [n for n in node.body if not is_docstring(n)]
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if length > 50:
                    wrong.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
                    )
    assert not wrong, "\n".join(wrong)


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_every_public_name_has_a_docstring():
    wrong = []
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            wrong.append(f"{path.relative_to(ROOT)}: module")
        for owner in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]:
            if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
                continue
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue
                overrides = (
                    isinstance(owner, ast.ClassDef) and owner.bases and node.name in INHERITED
                )
                if not node.name.startswith("_") and not overrides and not ast.get_docstring(node):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not wrong, "\n".join(wrong)


# Overrides whose contract is the documentation of the class they come from.
INHERITED = {"forward", "setup", "step", "reset_config", "save_checkpoint", "load_checkpoint"}


def test_commits_and_code_name_no_machine():
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if any(
            word in path.read_text(encoding="utf-8") for word in ("/work/", "/root/", "/tmp/brief")
        )
    ]
    assert not wrong


def imported_modules(path: Path, known: set[str]):
    """Modules of the product that a module imports when it runs, inside functions included."""
    waiting = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            waiting += ast.iter_child_nodes(node)


def import_circles(edges: dict[str, set[str]]) -> set[str]:
    """Modules on a circle: take away, again and again, those that import none of the rest."""
    left = dict(edges)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    while free := [name for name in left if not any(name in t for t in left.values())]:
        for name in free:
            del left[name]
    return set(left)


def test_no_module_imports_itself_in_a_circle():
    paths = {module_name(path): path for path in python_files()}
    known = set(paths)
    edges = {m: set(imported_modules(path, known)) & (known - {m}) for m, path in paths.items()}
    assert import_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"c"}}) == {"b", "c"}
    assert not import_circles(edges)


# pattern -> better. Looked for in comments, docstrings and messages of the product.
WORDS = {
    r"(?<!there )(?<!There )\bis no (?!longer|more)[a-z]": "is not a …",
    r"\b[Oo]ne (row|file|tensor|thread|core|process|config|range|piece|sample|entry) an? [a-z]": (
        "one … per …"
    ),
    r"\b(rows|bytes|tokens|numbers?) an? (row|split|step|parameter|weight|rank|worker)\b": "per",
    r"\bof which\b": "two sentences",
    r"\bof these\b": "a name for them",
    r"\balike\b": "on every …, equal",
    r"\btaken for\b": "treated as",
    r"\bbesides\b": "also, and",
    r"\b[Tt]ell whether\b": "return whether",
    # `normalise` is a config key, "centres" the name of a tensor on disk
    r"\b(learnt|colour|behaviour|normalis(?!e\b)|vectoris|centre(?!s\"))": "American spelling",
    r"\b(serial|optim|organ|util|initial|recogn)is[aei]": "American spelling",
}
RIDDLE = re.compile(r"\s*(What|How|Which|Where|From|When|Whose|Of|Who|Why) ")
"""Beginnings of docstrings that ask before they say: a docstring begins with a noun or a verb."""
UNWORDED = 0
"""Findings that are left in rooms whose files are new. May only become fewer, down to 0."""


def prose_of(path: Path):
    """Yield the line numbers, comments and strings of a file."""
    strings = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in strings:
                yield token.start[0], token.string


def test_texts_are_plain_american_english():
    wrong = []
    for path in python_files():
        for line, text in prose_of(path):
            name = f"{path.relative_to(ROOT)}:{line}"
            for pattern, better in WORDS.items():
                found = re.search(pattern, text)
                wrong += [f"{name} {found[0]!r}: write {better}"] if found else []
            quoted = text.removeprefix('"""')
            if quoted != text and RIDDLE.match(quoted):
                wrong.append(f"{name} {quoted[:40]!r}: begin with a noun or a verb")
    assert len(wrong) <= UNWORDED, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("7 is no corpus", r"(?<!there )"),
        ("one file a rank", r"\b[Oo]ne"),
        ("4 bytes a weight", r"\b(rows"),
        ("the normalisation", r"\b(learnt"),
    ],
)
def test_the_worst_wordings_would_be_found(text, pattern):
    assert [known for known in WORDS if re.search(known, text)] == [
        known for known in WORDS if known.startswith(pattern)
    ]


def test_there_is_one_name_for_loggers():
    names = {
        match
        for path in python_files()
        for match in re.findall(
            r"^(\w+)[^=\n]* = logging\.getLogger", path.read_text(encoding="utf-8"), re.M
        )
    }
    assert names == {"logger"}


# Modules that have the same part in each room or folder that has one.
ROLES = {"config", "runner", "results", "worker", "inputs", "plan", "outcome", "state", "cli"}
ROLES |= {
    "routes",
    "bodies",
    "base",
    "builtin",
    "configs",
    "importing",
    "architecture",
    "transformer",
}
SHARED = 4
"""Other names that two neighbors share. May only become fewer."""


def test_neighboring_rooms_have_no_modules_of_one_name():
    folders = {}
    for path in python_files():
        if path.name != "__init__.py" and path.parent.parent != ROOT:
            folders.setdefault((path.parent.parent, path.stem), []).append(path)
    twice = {name for (_, name), paths in folders.items() if len(paths) > 1} - ROLES
    assert len(twice) <= SHARED, sorted(twice)


def test_untyped_mappings_stay_few():
    """What crosses a process or a disk is a model; libraries and JSON of others leave some."""
    lines = [
        f"{path.relative_to(ROOT)}"
        for path in python_files()
        for line in path.read_text(encoding="utf-8").splitlines()
        if "dict[str, Any]" in line
    ]
    assert len(lines) <= 150, f"{len(lines)} lines: {sorted(set(lines))}"
