#!/usr/bin/env python3
"""Writes the texts that quantization methods are calibrated and compared with, from what a machine that builds nf4kit holds.

    python texts.py OUT

calibration: novel.txt, "The Adventures of Tom Sawyer", which the tests of github.com/klauspost/compress carry, and pydoc.txt,
the docstrings of Python's standard library. evaluation, of other sources: opticks.txt, Newton's "Opticks" of Go's tests, of
a domain that no calibration text has, and godoc.txt, comments of Go's standard library (testdata/llama/heldout.txt).
"""

import ast
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../../..")


def go(*args):
    return subprocess.check_output(["go", *args], text=True, cwd=ROOT).strip()


def docstrings():
    """The docstrings of Python's library that are prose, in the order of its files, each once."""
    library, seen = os.path.dirname(ast.__file__), set()
    for name in sorted(os.listdir(library)):
        if not name.endswith(".py"):
            continue
        with open(os.path.join(library, name), encoding="utf-8", errors="replace") as f:
            tree = ast.parse(f.read())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= 100 and text not in seen:
                    seen.add(text)
                    yield text


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    compress = go("list", "-m", "-f", "{{.Dir}}", "github.com/klauspost/compress")
    sources = {
        "novel.txt": os.path.join(compress, "testdata/Mark.Twain-Tom.Sawyer.txt"),
        "opticks.txt": os.path.join(go("env", "GOROOT"), "src/testdata/Isaac.Newton-Opticks.txt"),
        "godoc.txt": os.path.join(ROOT, "testdata/llama/heldout.txt"),
    }
    texts = {"pydoc.txt": "\n\n".join(docstrings()) + "\n"}
    for name, path in sources.items():
        with open(path, encoding="utf-8", errors="replace") as f:
            # Lines that the printed page broke are joined, as in text that models are trained on.
            texts[name] = re.sub(r"(?<=\S)\n(?=[^\s])", " ", f.read()) if name in ("novel.txt", "opticks.txt") else f.read()
    for name, text in sorted(texts.items()):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            f.write(text)
        print(f"{name}: {len(text)} characters")


if __name__ == "__main__":
    main()
