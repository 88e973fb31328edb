"""Write the tables of docs/api.md: every public name of every room, with the first sentence of its docstring.

python scripts/api_docs.py          rewrite the tables
python scripts/api_docs.py --check  exit with 1 where they are out of date
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
BEGIN, END = "<!-- rooms -->", "<!-- end of rooms -->"
LONGEST = 90
ROOMS = ("models", "coders", "harvest", "train", "edits", "experiments", "circuits", "transfer")


def sentences(file: Path) -> dict[str, str]:
    """The first sentence about every class, function and constant of a module."""
    body, texts = ast.parse(file.read_text(encoding="utf-8")).body, {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            texts[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            comment = following.value if isinstance(following, ast.Expr) else None
            value = f"`{ast.unparse(node.value or target)}`".replace("\n", " ")
            text = value if len(value) < LONGEST else "A constant"
            texts[ast.unparse(target)] = str(comment.value) if isinstance(comment, ast.Constant) else text
    return {name: first_sentence(text) for name, text in texts.items()}


def first_sentence(text: str) -> str:
    """The first sentence of a text, in one line, fit for a cell of a table."""
    text = re.sub(r"\s+", " ", text.strip().partition("\n\n")[0])
    return re.split(r"(?<=[^.])\.(?= [A-Z`]|$)", text, maxsplit=1)[0].replace("|", "\\|")


def module_file(module: str) -> Path:
    """Where a module lies."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def about(name: str, file: Path) -> str:
    """The sentence about a name that a module defines or imports."""
    own = sentences(file)
    if name in own:
        return own[name]
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glassworks"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return about(alias.name, module_file(node.module))
    return "A constant"


def tables() -> str:
    """A table for every room."""
    parts = []
    for room in ROOMS:
        file = ROOT / "glassworks" / room / "__init__.py"
        names = public_names(file)
        rows = [f"| `{name}` | {about(name, file)} |" for name in names]
        head = f"## glassworks.{room}\n\n{first_sentence(docstring(file))}.\n\n| name | what it is |\n|---|---|\n"
        parts.append(head + "\n".join(rows) + "\n")
    return "\n".join(parts)


def docstring(file: Path) -> str:
    """A module's docstring."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def public_names(file: Path) -> list[str]:
    """The names of a module's `__all__`."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def main() -> int:
    """Rewrite or check the page."""
    page = PAGE.read_text(encoding="utf-8")
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    written = f"{page[:start]}\n\n{tables()}\n{page[stop:]}"
    if "--check" in sys.argv:
        return int(written != page)
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
