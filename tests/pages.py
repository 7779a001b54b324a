"""Running the code blocks of a Markdown page, one after the other, as its reader would.

``sh`` blocks run under ``sh -e`` and ``python`` blocks in one interpreter, all in one folder. A
block whose first line is ``# file: PATH`` is written to that file instead. A ``text`` block is the
output of the block before it, with ``...`` for what varies. ``yaml``, ``toml`` and ``json`` blocks
must be valid. A block below ``<!-- not run: reason -->`` is passed over.
"""

import doctest
import json
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml
from running import in_environment, make_environment

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
SKIP = re.compile(r"<!-- not run: \S.*? -->\n\Z", re.S)
FILE = re.compile(r"\A# file: (\S+)\n")
VALID = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
LOOP = """
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    code, output, failed = json.loads(line), io.StringIO(), False
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(compile(code, "<page>", "exec"), names)
        except BaseException:
            failed = True
            traceback.print_exc()
    print(json.dumps([failed, output.getvalue()]), flush=True)
"""


class PageError(AssertionError):
    """A block does not do what its page says."""


@dataclass(frozen=True)
class Block:
    """One block of code."""

    language: str
    text: str
    line: int
    runs: bool


def blocks(page):
    """Return a page's blocks in order."""
    found = []
    for match in FENCE.finditer(page):
        indent = len(match["indent"])
        text = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        line = page.count("\n", 0, match.start()) + 1
        runs = SKIP.search(page, 0, match.start()) is None
        found.append(Block(match["language"], text, line, runs))
    if len(re.findall(r"^ *```", page, re.M)) != 2 * len(found):
        raise PageError("a fence is not closed")
    return found


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "work"
        self._folder.mkdir()
        self._programs = make_environment(folder / "environment")
        self._interpreter = None
        self._output = None

    def follow(self, page):
        """Run a page's blocks.

        Raises:
            PageError: One fails, or prints something else.
        """
        for block in blocks(page):
            if block.runs:
                try:
                    self._do(block)
                except PageError as fault:
                    raise PageError(f"line {block.line}: {fault}\n{block.text}") from None

    def close(self):
        """Stop the interpreter."""
        if self._interpreter is not None:
            self._interpreter.communicate()

    def _do(self, block):
        named = FILE.match(block.text)
        if named:
            file = self._folder / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text[named.end() :])
        elif block.language == "sh":
            ran = in_environment(self._programs, block.text, self._folder)
            self._note(ran.returncode != 0, ran.stdout)
        elif block.language == "python":
            self._note(*self._execute(block.text))
        elif block.language == "text":
            self._compare(block.text)
        elif block.language in VALID:
            VALID[block.language](block.text)
        else:
            raise PageError(f"nobody can run {block.language!r}: say <!-- not run: why -->")

    def _note(self, failed, output):
        if failed:
            raise PageError(f"fails with\n{output}")
        self._output = output

    def _execute(self, code):
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [self._programs / "python", "-c", LOOP],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._interpreter.stdin.write(json.dumps(code) + "\n")
        self._interpreter.stdin.flush()
        return json.loads(self._interpreter.stdout.readline())

    def _compare(self, expected):
        if self._output is None:
            raise PageError("is the output of no block before it")
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not doctest.OutputChecker().check_output(expected, self._output, options):
            raise PageError(f"is not what is printed, which is\n{self._output}")
