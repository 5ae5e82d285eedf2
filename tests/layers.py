#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks who includes whom, and a few rules that a compiler cannot.

  include <- hw, backends, migration      rooms see public headers and themselves
  tools and tests see all

layers.py [ROOT]      prints every violation in ROOT (default: this tree)
layers.py --self-test feeds each rule a tree that breaks it
"""

import pathlib
import re
import sys
import tempfile

FOLDERS = ("include", "hw", "backends", "migration", "tools", "tests")
SOURCES = (".h", ".cc")
TESTING = "tests/fakes/vhostdev/testing/"

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
PROJECT = re.compile(r"(include|hw|backends|migration|tools|tests)/")
COMMENT_OR_STRING = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
CO_AWAIT = re.compile(r"\bco_await\b[^;]*?[{\[]")

# Headers of a library -> the folders that may include them.  Tools and tests
# may include all.
PRIVATE_LIBRARIES = (
    (re.compile(r"(glib|gio|gmodule|gobject)[-./]"), ("hw/glib/",)),
    (re.compile(r"(lib)?fdt(_env)?\.h$"), ("hw/mmio/",)),
    (re.compile(r"(nlohmann/|xxhash\.h$)"), ("migration/",)),
    (re.compile(r"(gtest|gmock|benchmark)/"), ()),
)
# hw/virtio speaks to back-ends only through VhostOps.
NO_SYSCALLS = re.compile(r"(sys/(socket|un|ioctl)\.h|netinet/.*|linux/vhost.*)$")
NAMELESS = ("util", "utils", "common")


def room(path):
    """The folder whose private headers the file may include."""
    parts = path.split("/")
    if parts[0] in ("hw", "backends"):
        return "/".join(parts[:2]) + "/"
    if parts[0] == "migration":
        return "migration/"
    return None


def check_include(path, quote, header):
    """Says what is wrong with this #include in this file, or None."""
    if path.startswith(("tools/", "tests/")) and not path.startswith(TESTING):
        return None
    public = path.startswith(("include/", TESTING))
    shipped_tests = path.startswith(TESTING)
    if header.startswith("vhostdev/testing/") and not shipped_tests:
        return "the test kit is for tests and tools"
    if header.startswith("vhostdev/"):
        return None
    for pattern, folders in PRIVATE_LIBRARIES:
        if pattern.match(header) and not path.startswith(folders or ("\0",)):
            if shipped_tests and header.startswith(("gtest/", "gmock/")):
                return None
            return "only " + (", ".join(folders) or "tests") + " may"
    if path.startswith("hw/virtio/") and NO_SYSCALLS.match(header):
        return "hw/virtio knows no ioctl and no socket"
    if header.startswith("absl/"):
        return None
    if quote == "<":
        return "use quotes from the top" if PROJECT.match(header) else None
    if public:
        return "a public header sees only <vhostdev/...>, std and Abseil"
    if not header.startswith(room(path)):
        return f"{room(path)} sees its own private headers only"
    return None


def check_text(path, text):
    """Yields (line, complaint) for one source file."""
    for match in INCLUDE.finditer(text):
        complaint = check_include(path, match[1], match[2])
        if complaint:
            line = text.count("\n", 0, match.start(2)) + 1
            yield line, f"includes {match[2]}: {complaint}"
    if room(path):
        # Blank out comments and strings, keep the lines.
        code = COMMENT_OR_STRING.sub(
            lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        for match in CO_AWAIT.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            yield line, ("co_await with a brace or a bracket before the next "
                         "semicolon: give the operand a name first")


def violations(root):
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            path = file.relative_to(root).as_posix()
            if file.stem in NAMELESS:
                yield f"{path}: name it after what it does"
            if file.is_file() and file.suffix in SOURCES:
                text = file.read_text(encoding="utf-8")
                for line, complaint in check_text(path, text):
                    yield f"{path}:{line}: {complaint}"


GOOD = (
    ("include/vhostdev/a.h",
     '#include <linux/virtio_ring.h>\n#include <vhostdev/b.h>\n'
     '#include "absl/status/status.h"\n'),
    ("hw/virtio/a.cc",
     '#include "hw/virtio/a.h"\n#include <vhostdev/a.h>\n#include <vector>\n'),
    ("hw/virtio/b.cc",
     '// co_await {\nvoid f() {\n  auto s = co_await op;\n  g({1});\n'
     '  log("co_await [");\n}\n'),
    ("hw/glib/a.cc", "#include <glib.h>\n"),
    ("hw/mmio/a.cc", "#include <libfdt.h>\n"),
    ("backends/user/a.cc",
     '#include <sys/socket.h>\n#include "backends/user/a.h"\n'),
    ("migration/a.cc", '#include <xxhash.h>\n#include "migration/a.h"\n'),
    ("tools/vhostctl/a.cc",
     '#include <nlohmann/json.hpp>\n#include "hw/virtio/a.h"\n'),
    ("tests/virtio/a.cc",
     '#include <glib.h>\n#include <vhostdev/testing/a.h>\n'
     '#include "backends/user/a.h"\n'),
    ("tests/fakes/vhostdev/testing/a.h",
     "#include <gmock/gmock.h>\n#include <vhostdev/testing/b.h>\n"),
)
BAD = (
    ("include/vhostdev/a.h", '#include "hw/virtio/a.h"\n'),
    ("include/vhostdev/a.h", '#include "b.h"\n'),
    ("include/vhostdev/a.h", "#include <glib.h>\n"),
    ("include/vhostdev/a.h", "#include <vhostdev/testing/a.h>\n"),
    ("tests/fakes/vhostdev/testing/a.h", '#include "backends/user/a.h"\n'),
    ("hw/virtio/a.cc", '#include "backends/user/a.h"\n'),
    ("hw/virtio/a.cc", "#include <backends/user/a.h>\n"),
    ("hw/virtio/a.cc", '#include "hw/driver/a.h"\n'),
    ("hw/virtio/a.cc", '#include "a.h"\n'),
    ("hw/virtio/a.cc", '#include "../driver/a.h"\n'),
    ("hw/virtio/a.cc", "#include <sys/socket.h>\n"),
    ("hw/virtio/a.cc", "#  include <sys/ioctl.h>\n"),
    ("hw/virtio/a.cc", "#include <linux/vhost.h>\n"),
    ("hw/virtio/a.cc", "#include <glib-unix.h>\n"),
    ("hw/virtio/a.cc", "#include <vhostdev/testing/a.h>\n"),
    ("hw/virtio/a.cc", "#include <gtest/gtest.h>\n"),
    ("hw/virtio/a.cc", "auto s = co_await op(Arg{1});\n"),
    ("hw/virtio/a.cc", "auto s = co_await op(\n    [&] { f(); });\n"),
    ("hw/driver/a.cc", "#include <libfdt.h>\n"),
    ("backends/user/a.cc", '#include "backends/kernel/a.h"\n'),
    ("backends/user/a.cc", '#include "hw/virtio/a.h"\n'),
    ("backends/user/a.cc", '#include "migration/a.h"\n'),
    ("backends/user/a.cc", "#include <nlohmann/json.hpp>\n"),
    ("migration/a.cc", '#include "hw/virtio/a.h"\n'),
    ("hw/virtio/util.h", ""),
    ("tools/common/a.cc", ""),
)


def found(*files):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return list(violations(root))


def self_test():
    wrong = [f"wrongly refused: {what}" for what in found(*GOOD)]
    wrong += [f"not refused: {path}: {text!r}" for path, text in BAD
              if len(found((path, text))) != 1]
    return wrong


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        wrong = self_test()
    else:
        here = pathlib.Path(__file__).resolve().parent.parent
        root = pathlib.Path(arguments[0]) if arguments else here
        if not (root / "include").is_dir():
            sys.exit(f"layers.py: {root} is not the source tree")
        wrong = list(violations(root))
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
