"""The pages README.md and docs/*.md: their blocks of code, run and compared.

`python -m tests.docs.pages README.md` writes what the page's Python prints into it.
"""

import doctest
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md"))]

#: A fenced block, and what stands right before it: "<!-- not run: why -->".
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

_NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        line: where its code begins.
        language: as its fence says; "text" is what the block before prints.
        code: the text in it.
        why: why no test runs it; "" for what is run.
        printed: the "text" block that follows at once, None where there is none.
    """

    line: int
    language: str
    code: str
    why: str
    printed: str | None


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All blocks of a page, outputs joined to what prints them."""
    whole = text(page)
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(whole):
        language, code = fence["language"], fence["code"]
        line = whole.count("\n", 0, fence.start("code")) + 1
        if language == "text":
            assert found, f"{page}:{line} is printed by no block"
            assert not whole[end : fence.start()].strip(), f"{page}:{line}: by which?"
            found[-1] = found[-1]._replace(printed=code)
        else:
            found.append(Block(line, language, code, fence["why"] or "", None))
        end = fence.end()
    return found


def prose(page: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", text(page))


def run_python(page: str) -> Iterator[tuple[Block, str]]:
    """Run the page's Python from top to bottom in one namespace: what each prints."""
    torch.manual_seed(0)
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language != "python" or block.why:
            continue
        # Lines of the page in tracebacks.
        code = compile("\n" * (block.line - 1) + block.code, str(ROOT / page), "exec")
        with redirect_stdout(io.StringIO()) as out:
            exec(code, scope)
        yield block, out.getvalue()


def require_printed(page: str) -> None:
    """Run the page's Python; it prints what the page says."""
    for block, printed in run_python(page):
        if block.printed is not None:
            require_same(f"{page}:{block.line}", block.printed, printed)


def require_same(where: str, wanted: str, got: str) -> None:
    """As a doctest: `...` stands for anything, spaces for any number of them.

    Numbers may differ by 1 % or a thousandth, as on another processor.
    """
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(wanted, got, flags)
    near = _NUMBER.sub("#", wanted).split() == _NUMBER.sub("#", got).split()
    pairs = zip(_NUMBER.findall(wanted), _NUMBER.findall(got), strict=False)
    close = (
        math.isclose(float(a), float(b), rel_tol=1e-2, abs_tol=1e-3) for a, b in pairs
    )
    assert same or (near and all(close)), (
        f"{where} prints\n{got}\nrather than\n{wanted}"
    )


def _write(page: str) -> None:
    whole = text(page)
    os.chdir(tempfile.mkdtemp())
    for block, printed in run_python(page):
        if block.printed is not None:
            fence = f"{block.code}```\n\n```text\n"
            assert whole.count(f"{fence}{block.printed}```") == 1, block
            whole = whole.replace(f"{fence}{block.printed}```", f"{fence}{printed}```")
    (ROOT / page).write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    _write(*sys.argv[1:])
