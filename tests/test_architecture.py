"""The house rules that a program can check: sizes of files, cycles, light imports, the lazy facade."""

import ast
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import glassworks

ROOT = Path(glassworks.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT.parent))


def test_files_are_at_most_500_lines():
    long = {name(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 500}
    assert not long


def test_classes_are_abstract_or_final():
    """A class of ours that is subclassed must be abstract, an exception or a protocol."""
    classes = {n.name: (n, f) for f, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    wrong = []
    for node, file in classes.values():
        for base in node.bases:
            parent = ast.unparse(base).split(".")[-1].split("[")[0]
            if parent in classes and not is_open(classes[parent][0], classes[parent][1]):
                wrong.append(f"{name(file)}:{node.name} extends {parent}")
    assert not wrong


def is_open(node: ast.ClassDef, file: Path) -> bool:
    bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
    return file.name == "errors.py" or "ABC" in bases or "Protocol" in bases


def module(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, tree: ast.AST, modules: set[str]) -> set[str]:
    """Modules of ours that a file imports, inside functions too, but not under TYPE_CHECKING."""
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= modules else inner | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & modules) - {module(file)}


def test_there_is_no_import_cycle():
    modules = {module(file) for file in FILES}
    graph = {module(file): imported(file, tree, modules) for file, tree in TREES.items()}
    graph["glassworks"] = set()  # the facade and the version: looked at by name, never a step of a cycle
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> None:
        assert node not in path, " -> ".join((*path[path.index(node) :], node))
        if node not in done:
            for below in sorted(graph[node]):
                visit(below, (*path, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())


def test_rooms_are_imported_from_their_root():
    rooms = {file.parent.name for file in FILES if file.name == "__init__.py" and file.parent != ROOT}
    wrong = []
    for file, tree in TREES.items():
        home = file.relative_to(ROOT).parts[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glassworks."):
                parts = node.module.split(".")
                if len(parts) > 2 and parts[1] in rooms and parts[1] != home:
                    wrong.append(f"{name(file)}: {node.module}")
    assert not wrong


def test_every_module_says_why_it_exists():
    assert not [name(file) for file, tree in TREES.items() if not ast.get_docstring(tree)]


RIDDLES = set(
    re.findall(
        r"\w+",
        """told said shown asked sought dealt stands standin lookalike fleet member members trainee learner attempt
        touches companion station stations door doors witness workshop library story bend patience revive""",
    )
)
ALLOWED = {
    "coders/headers.py": {"_member", "member", "members"},  # of a zip file
    "coders/scope.py": {"shown", "told"},
    "smallworld/chat.py": {"story"},  # templates of chats, some of which are stories
    "transfer/protocol.py": {"shown"},
}
"""Identifiers that are still allowed, by file."""


def identifiers(tree: ast.AST):
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def riddles(identifier: str) -> set[str]:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)]
    return {*words, *("".join(pair) for pair in pairwise(words))} & RIDDLES


def test_no_identifier_is_a_riddle():
    """Names are the field's words, or two plain ones."""
    wrong = {}
    for file, tree in TREES.items():
        path = str(file.relative_to(ROOT))
        names = {each for each in identifiers(tree) if riddles(each)} - ALLOWED.get(path, set())
        wrong |= {path: names} if names else {}
    assert not wrong


WORLD = ("Dallas", "Texas", "Austin", "Oakland", "California", "Sacramento")


def test_facts_of_the_world_stay_in_smallworld():
    web = [f for f in (ROOT / "server").rglob("*") if f.suffix in (".js", ".html", ".css") and "lib" not in f.parts]
    outside = [file for file in [*FILES, *web] if "smallworld" not in file.parts and "node_modules" not in file.parts]
    assert not [name(f) for f in outside if any(word in f.read_text(encoding="utf-8") for word in WORLD)]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


HEAVY = "json.dumps([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"


def test_import_is_light():
    heavy, seconds = json.loads(
        run(
            "import json, sys, time; start = time.process_time(); import glassworks;"
            f"print(json.dumps([{HEAVY}, time.process_time() - start]))"
        )
    )
    assert json.loads(heavy) == []
    assert seconds <= 0.2


def test_help_is_light():
    code = (
        "import json, sys, time; start = time.process_time()\n"
        "from glassworks.cli import main; sys.argv = ['glassworks', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print(json.dumps([{HEAVY}, time.process_time() - start]))"
    )
    heavy, seconds = min((json.loads(run(code).splitlines()[-1]) for _ in range(3)), key=lambda pair: pair[1])
    assert json.loads(heavy) == []
    assert seconds <= 0.4


@pytest.mark.parametrize("each", glassworks.__all__)
def test_facade_gives_every_name(each):
    assert getattr(glassworks, each) is not None
    assert each in dir(glassworks)


def test_facade_refuses_other_names():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glassworks.nothing
