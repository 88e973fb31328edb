"""Print the size of every room of the package, and of the recipes beside it.

    python scripts/size.py [ROOT]      ROOT is a checkout, by default the one that this file lies in

Columns: files, lines (all of them), statements (nodes of the syntax tree), functions and methods, classes, the share of
lines that belong to the body of a function (docstrings excluded), and the names that the room's `__all__` makes public.
"""

import argparse
import ast
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass
class Size:
    """Counts of one room; `body` is a number of lines, and a share once it is printed."""

    files: int = 0
    lines: int = 0
    statements: int = 0
    functions: int = 0
    classes: int = 0
    body: int = 0
    public: int = 0

    def __add__(self, other: "Size") -> "Size":
        """Return the sums of both."""
        return Size(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def row(self, room: str) -> str:
        """Return the printed line of a room."""
        files, lines, statements, functions, classes, body, public = astuple(self)
        share = f"{body / max(lines, 1):.0%}"
        return f"{room:<20}{files:>8}{lines:>10,}{statements:>12,}{functions:>11,}{classes:>9,}{share:>7}{public:>8}"


def measure(file: Path, is_root: bool) -> Size:
    """Count one file; its public names count where it is the `__init__.py` of its room."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    body: set[int] = set()  # a set, because a nested function's lines belong to its parent's body too
    for function in functions:
        statements = function.body[1:] if ast.get_docstring(function) else function.body
        if statements:
            body.update(range(statements[0].lineno, (statements[-1].end_lineno or 0) + 1))
    return Size(
        files=1,
        lines=len(text.splitlines()),
        statements=sum(isinstance(node, ast.stmt) for node in nodes),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        body=len(body),
        public=public_names(tree) if is_root else 0,
    )


def public_names(tree: ast.Module) -> int:
    """Count the names of `__all__`: literals, or the keys of a table of names and their modules."""
    values = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }

    def count(node: ast.AST | None) -> int:
        match node:
            case ast.Constant(value=str()):
                return 1
            case ast.Name(id=name):
                return count(values.get(name))
            case ast.Dict(keys=keys):
                return len(keys)
            case ast.List(elts=inner) | ast.Tuple(elts=inner) | ast.Call(args=inner):
                return sum(map(count, inner))
            case ast.Starred(value=value):
                return count(value)
        return 0

    return count(values.get("__all__"))


def rooms(root: Path) -> dict[str, Size]:
    """Measure the root of the package, each of its folders, and `recipes/` where there is one."""
    sizes: dict[str, Size] = {}
    for top, base in ((root / "glassworks", root / "glassworks"), (root / "recipes", root)):
        for file in sorted(top.rglob("*.py")):
            parts = file.relative_to(base).parts
            room = "(root)" if len(parts) == 1 else "recipes/" if base == root else parts[0]
            is_root = file.name == "__init__.py" and len(parts) <= 2
            sizes[room] = sizes.get(room, Size()) + measure(file, is_root)
    return sizes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    sizes = rooms(parser.parse_args().root)
    print(
        f"{'room':<20}{'files':>8}{'lines':>10}{'statements':>12}{'functions':>11}{'classes':>9}{'body':>7}{'public':>8}"
    )
    for room, size in sizes.items():
        print(size.row(room))
    print(sum(sizes.values(), Size()).row("total"))


if __name__ == "__main__":
    main()
