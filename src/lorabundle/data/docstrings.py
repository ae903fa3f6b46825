"""Questions and answers from the docstrings of Python wheels: the default dataset.

Wheels are read as zip files, and their modules are parsed with `ast`. Nothing is imported or executed, so the same wheels give
the same records on any machine. A public function, class or method gives up to four kinds of record: what it does
(`explanation`), what each parameter is (`parameter`), what it returns (`returns`), and a worked example (`example`).
"""

import ast
import doctest
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from docstring_parser import DocstringStyle, ParseError, parse

from lorabundle.data.texts import FORBIDDEN

SHORTEST, LONGEST = 25, 300  # characters of an answer
SKIPPED_FOLDERS = {"tests", "testing", "benchmarks"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

QUESTIONS = {
    "explanation": "What does {what} do?",
    "parameter": "In {what}, what is the parameter `{name}`?",
    "returns": "What does {what} return?",
    "example": "Show a short example of {what}.",
}


def build_records(wheels: dict[str, Path]) -> Iterator[dict]:
    """All records of some wheels, in the order of the wheels, their modules and the definitions in them.

    Args:
        wheels: {package: path of its `.whl` file}; the questions name the package.

    Yields:
        {"id", "group", "prompt", "completion", "kind"}, where `prompt` and `completion` are lists of one message.
        `group` is the function's name without its class and module, so that different classes and libraries that have a function
        of one name (`Dataset.mean`, `DataArray.mean`) stay together. An answer that occurs again, with the same words, is skipped.
    """
    answers, ids = set(), set()
    for package, wheel in wheels.items():
        for module, owner, node in _definitions(wheel):
            qualified_name = ".".join(filter(None, [module, owner, node.name]))
            for kind, name, answer in _answers(node):
                record_id = f"{qualified_name}:{kind}" + (f":{name}" if name else "")
                key = re.sub(r"\W+", " ", answer).strip().casefold()
                is_usable = SHORTEST <= len(answer) <= LONGEST and not FORBIDDEN.search(answer)
                if not is_usable or key in answers or record_id in ids:
                    continue
                answers.add(key)
                ids.add(record_id)  # a name may be defined twice: a property and its setter, one function per platform
                question = QUESTIONS[kind].format(what=_describe(owner, node, package), name=name)
                yield {
                    "id": record_id,
                    "group": node.name,
                    "prompt": [{"role": "user", "content": question}],
                    "completion": [{"role": "assistant", "content": answer}],
                    "kind": kind,
                }


def _modules(wheel: Path) -> Iterator[tuple[str, ast.Module]]:
    """(dotted module name, syntax tree) of each public module, sorted by name."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            parts = name.removesuffix(".py").split("/")
            private = any(part.startswith("_") and part != "__init__" for part in parts)
            if not name.endswith(".py") or private or SKIPPED_FOLDERS & set(parts) or parts[-1].startswith("test_"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about invalid escapes in the libraries' own strings
                tree = ast.parse(archive.read(name))
            yield ".".join(part for part in parts if part != "__init__"), tree


def _definitions(wheel: Path) -> Iterator[tuple[str, str, Definition]]:
    """(module, class or "", node) of each public top-level definition and each public method."""
    for module, tree in _modules(wheel):
        for node in tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                yield module, "", node
                for method in node.body if isinstance(node, ast.ClassDef) else []:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
                        yield module, node.name, method


def _describe(owner: str, node: Definition, package: str) -> str:
    """What the question is about, with its arguments: the networkx function `bfs_tree(G, source)`."""
    name = f"{owner}.{node.name}" if owner else node.name
    if isinstance(node, ast.ClassDef):
        return f"the {package} class `{name}`"
    if any(isinstance(d, ast.Name) and d.id.endswith("property") for d in node.decorator_list):
        return f"the {package} property `{name}`"
    arguments = ast.unparse(_without_details(node.args)).split(", ")
    shown = ", ".join(argument for argument in arguments if argument not in ("self", "cls"))
    return f"the {package} {'method' if owner else 'function'} `{name}({shown})`"


def _without_details(arguments: ast.arguments) -> ast.arguments:
    """The arguments' names, without annotations and defaults."""

    def bare(argument: ast.arg | None) -> ast.arg | None:
        return argument and ast.arg(argument.arg)

    return ast.arguments(
        posonlyargs=[],
        args=[bare(argument) for argument in [*arguments.posonlyargs, *arguments.args]],
        vararg=bare(arguments.vararg),
        kwonlyargs=[bare(argument) for argument in arguments.kwonlyargs],
        kw_defaults=[None] * len(arguments.kwonlyargs),
        kwarg=bare(arguments.kwarg),
        defaults=[],
    )


def _answers(node: Definition) -> Iterator[tuple[str, str, str]]:
    """(kind, parameter name or "", answer) for each question that a docstring answers."""
    docstring = ast.get_docstring(node, clean=True)
    if not docstring:
        return
    # numpydoc underlines section headings with hyphens, sympy with equals signs
    docstring = re.sub(r"(?m)^=+$", lambda match: "-" * len(match[0]), docstring)
    try:
        sections = parse(docstring, style=DocstringStyle.NUMPYDOC)
    except ParseError:
        return
    yield "explanation", "", _first_paragraph(docstring)
    for parameter in sections.params:
        for name in parameter.arg_name.split(","):
            if re.fullmatch(r"\*{0,2}[A-Za-z_]\w*", name.strip()):
                yield "parameter", name.strip().lstrip("*"), _first_paragraph(parameter.description or "")
    if sections.returns:
        yield "returns", "", _first_paragraph(sections.returns.description or "")
    yield "example", "", _worked_example(docstring)


def _first_paragraph(text: str) -> str:
    """The first paragraph on one line, with reStructuredText roles as code; "" if it is markup, mathematics or a fragment."""
    line = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    line = re.sub(r":\w+(?::\w+)*:`~?([^`<]+?)(?: <[^>]*>)?`", r"`\1`", line).replace("``", "`")
    is_markup = re.search(r"\.\. |>>>|\|\w+\||---|\\\\|\$", line)
    return "" if is_markup or line.endswith(":") or not re.match(r"[A-Z`]", line) else line


def _worked_example(docstring: str) -> str:
    """As many doctest examples, from the first on, as fit into `LONGEST` characters; the last one shows a result."""
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # the docstring's own doctest is malformed
        return ""
    text, best = "", ""
    for example in examples:
        source = example.source.rstrip("\n").replace("\n", "\n... ")
        text += f">>> {source}\n{example.want}"
        if len(text) > LONGEST:
            break
        if example.want:
            best = text.rstrip("\n")
    return best
