"""Rules of the code's structure: which process a module runs in, and that what is named exists.

The layers themselves are contracts of import-linter, in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import streamdiffvsr

ROOT = Path(streamdiffvsr.__file__).resolve().parent
NOT_SOURCE = {"tests", "build", "dist"}
MANUAL = (str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *MANUAL]
# Where a path in a document or a docstring may begin.
FOLDERS = (
    r"(?:benchmarks|building|cli|comfyui|engines|examples|export|graphs|research|runtime|tests"
    r"|tools)"
)
TASK = re.compile(r"(?:benchmarks|building|runtime)[.a-z_]+_child")
# Words in single or double backticks that are names of other projects, files or formats.
FOREIGN = re.compile(r"^(?:_?[A-Z].*|.*[^a-z0-9_].*|[a-z0-9]+|h264_\w+|hevc_\w+|lib\w+|)$")


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package, by its dotted name without the package's."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        if inside.parts[0] in NOT_SOURCE or any(part.startswith(".") for part in inside.parts):
            continue
        name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def tasks() -> dict[str, set[str]]:
    """The modules that `Child` is asked to run, and who asks."""
    found: dict[str, set[str]] = {}
    for name, tree in sources().items():
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(
                r"(benchmarks|building|runtime)[.a-z_]+_child", text
            ):
                found.setdefault(text, set()).add(name)
    return found


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """The modules of this package that a module imports, wherever it does."""
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        above = ".".join(part for part in base if part)
        for alias in node.names:
            inner = f"{above}.{alias.name}".removeprefix(".")
            yield inner if inner in sources() else above or "__init__"


def test_every_task_of_a_child_process_is_a_module_that_serves():
    assert len(tasks()) >= 9
    for task in tasks():
        assert callable(import_module(f"streamdiffvsr.{task}").serve)


def test_a_module_of_a_child_process_is_imported_by_its_like_alone():
    for name, tree in sources().items():
        if not name.endswith("_child"):
            children = [other for other in imports(name, tree) if other.endswith("_child")]
            assert children == [], f"{name} imports what runs in a child process"


def test_every_module_of_a_child_process_runs_in_one():
    started = {name for name in sources() if name.endswith("start_up_child")}  # run by -m
    reached, ahead = set(), [*tasks(), *started]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += imports(name, sources()[name])
    assert {name for name in sources() if name.endswith("_child")} <= reached


@cache
def names_in_code() -> frozenset[str]:
    """Every identifier and every word of a string in the package, but for docstrings."""
    found: set[str] = set()
    for name, tree in sources().items():
        found |= {name, *name.split(".")}
        docs = {id(doc) for node in ast.walk(tree) if (doc := docstring(node)) is not None}
        for node in ast.walk(tree):
            for field in ("id", "attr", "arg", "name", "asname"):
                if isinstance(value := getattr(node, field, None), str):
                    found |= {value, value.rpartition(".")[2]}
            text = node.value if isinstance(node, ast.Constant) and id(node) not in docs else None
            if isinstance(text, str):
                found |= set(re.findall(r"\w+", text))
    return frozenset(found)


def docstring(node: ast.AST) -> ast.Constant | None:
    """The node of a docstring."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first.value
    return None


def docstrings() -> Iterator[tuple[str, str]]:
    """Yields the place and the text of each docstring."""
    for name, tree in sources().items():
        for node in ast.walk(tree):
            found = docstring(node)
            if found is not None and isinstance(found.value, str):
                yield f"{name}:{found.lineno}", found.value


def test_every_name_in_a_docstring_exists():
    for where, text in docstrings():
        for word in re.findall(r"`{1,2}([^`\n]+)`{1,2}", text):
            word = word.strip("~").removesuffix("()")
            if re.fullmatch(r"[\w.]+", word) and not FOREIGN.match(last := word.rsplit(".", 1)[-1]):
                assert last in names_in_code(), f"{where} names `{word}`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_module_named_in_a_document_exists(document):
    assert_exist(document, (ROOT / document).read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file(document):
    """Anchors, and whether a page is reached, are for `mkdocs build --strict` to say."""
    for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / document).read_text("utf-8")):
        assert (ROOT / document).parent.joinpath(link).exists(), f"{document} links to {link}"


def test_every_file_and_module_named_in_a_docstring_exists():
    for where, text in docstrings():
        assert_exist(where, text)


def assert_exist(where: str, text: str) -> None:
    for path in re.findall(rf"(?<![\w/.-]){FOLDERS}/[\w/]+\.(?:py|sh|json)\b", text):
        assert (ROOT / path).is_file(), f"{where} names {path}"
    for module in re.findall(r"\bstreamdiffvsr((?:\.[a-z_]\w*)+)(?![\w/])", text):
        assert reachable(module[1:]), f"{where} names streamdiffvsr{module}"


def reachable(dotted: str) -> bool:
    """Returns whether that is a module, a test package, or a name in a module or the package."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, name = dotted.rpartition(".")
    return hasattr(import_module(f"streamdiffvsr.{module}".rstrip(".")), name)


# Options of other programs, in the commands that are run or recommended.
OF_OTHERS = ("--query-gpu", "--format=csv", "--force-reinstall")


def test_the_library_names_no_option_of_the_command_line():
    """Its messages hold placeholders, which whoever shows them puts into words."""
    for name, tree in sources().items():
        if name.split(".")[0] not in ("runtime", "engines", "building", "export", "graphs"):
            continue
        docs = {id(docstring(node)) for node in ast.walk(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                for other in OF_OTHERS:
                    text = text.replace(other, "")
                named = id(node) not in docs and re.search(r"(?<![\w-])--[a-z][\w-]*", text)
                assert not named, f"{name}:{node.lineno} names {named[0]}"
