#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the C++ of the documentation against code that is compiled and run.

In a page, `<!-- FILE: NAME -->` right before a ```cpp block says that the block
is the part of FILE between "// [NAME]" and "// [end]".  A ```cpp block without
that line is an error.
"""
import pathlib
import re
import sys

BLOCK = re.compile(
    r"(?:<!-- (?P<file>\S+): (?P<name>\w+) -->\n)?```cpp\n(?P<code>.*?)```", re.S
)


def part(text, name):
    match = re.search(rf"^// \[{name}\]\n(.*?)^// \[end\]$", text, re.S | re.M)
    return match[1] if match else None


def check(page, read):
    """What is wrong with one page; `read` gives the text of a file."""
    wrong = []
    for block in BLOCK.finditer(page):
        if not block["file"]:
            wrong.append(f"a block without a source: {block['code'][:40]!r}")
            continue
        code = part(read(block["file"]), block["name"])
        if code is None:
            wrong.append(f"{block['file']} has no part {block['name']}")
        elif code.strip() != block["code"].strip():
            wrong.append(f"{block['name']} differs from {block['file']}")
    return wrong


def self_test():
    text = "// [a]\nint x;\n// [end]\n"
    read = lambda file: text
    assert check("<!-- f: a -->\n```cpp\nint x;\n```\n", read) == []
    assert check("<!-- f: a -->\n```cpp\nint y;\n```\n", read)
    assert check("<!-- f: b -->\n```cpp\nint x;\n```\n", read)
    assert check("```cpp\nint x;\n```\n", read)


def main():
    self_test()
    root = pathlib.Path(__file__).resolve().parents[2]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    blocks = 0
    failed = False
    for page in pages:
        text = page.read_text()
        blocks += len(BLOCK.findall(text))
        for line in check(text, lambda file: (root / file).read_text()):
            print(f"{page.relative_to(root)}: {line}")
            failed = True
    print(f"{blocks} blocks in {len(pages)} pages")
    return 1 if failed or not blocks else 0


if __name__ == "__main__":
    sys.exit(main())
