#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Uses an installed tree from outside: docs/examples/embed, built in every way
that docs/embedding.md names, and run against the installed vhost-model-blk.

installed_tree.py --build BUILD --cxx COMPILER STEP

The step "install" comes first: it installs BUILD to BUILD/install/tree, by way
of another folder, because an installed tree may be moved.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from support import EXAMPLE, SOURCE, check_sector, fail, model_blk, run

NEEDS_CXX20 = "vhostdev needs C++20"
USE_TESTING = SOURCE / "tests/install/use_testing"


class Tree:
    def __init__(self, build, cxx):
        self.build = build
        self.cxx = cxx
        self.work = build / "install"
        self.prefix = self.work / "tree"

    def libdir(self):
        return next(self.prefix.glob("**/libvhostdev.a")).parent

    def fresh(self, name):
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def install(self):
        """cmake --install, then the tree is moved."""
        made = self.fresh("first") / "prefix"
        run(["cmake", "--install", self.build, "--prefix", made])
        shutil.rmtree(self.prefix, ignore_errors=True)
        made.rename(self.prefix)
        for file in self.prefix.rglob("*"):
            text = file.suffix in (".cmake", ".pc", ".h") and file.read_text()
            if text and (str(self.build) in text or str(SOURCE) in text):
                fail(f"{file} names the folder it was built in")

    def pkg_config(self, *arguments):
        environment = dict(os.environ)
        environment["PKG_CONFIG_PATH"] = str(self.libdir() / "pkgconfig")
        return run(["pkg-config", *arguments], env=environment).decode().split()

    def cmake(self, source, name, *options):
        """Builds a project of CMake's against the tree."""
        folder = self.fresh(name)
        run(["cmake", "-S", source, "-B", folder, "-G", "Ninja",
             f"-DCMAKE_CXX_COMPILER={self.cxx}",
             f"-DCMAKE_PREFIX_PATH={self.prefix}", *options])
        run(["cmake", "--build", folder])
        return folder

    def plain(self, name, flags):
        """Builds the example with nothing but a compiler."""
        program = self.fresh(name) / "embed"
        run([self.cxx, "-std=c++20", EXAMPLE / "main.cc", "-o", program,
             *flags])
        return program

    def check(self, program, shared):
        """It is linked as it should be, and reads the disk."""
        linked = run(["ldd", program]).decode()
        if ("libvhostdev.so" in linked) != shared:
            fail(f"shared is not {shared}:\n{linked}")
        socket = program.parent / "disk.sock"
        image = program.parent / "disk.img"
        short = pathlib.Path(os.path.relpath(socket))
        backend = [self.prefix / "bin/vhost-model-blk"]
        with model_blk(backend, (socket, short), (image, image)):
            check_sector(run([program, short]))

    def cmake_shared(self):
        for name, options in (("cmake_shared", ["-DBUILD_SHARED_LIBS=ON"]),
                              ("cmake_default", [])):
            self.check(self.cmake(EXAMPLE, name, *options) / "embed", True)

    def cmake_static(self):
        folder = self.cmake(EXAMPLE, "cmake_static", "-DBUILD_SHARED_LIBS=OFF")
        self.check(folder / "embed", False)

    def pkg_config_shared(self):
        flags = self.pkg_config("--cflags", "--libs", "vhostdev")
        flags.append(f"-Wl,-rpath,{self.libdir()}")
        self.check(self.plain("pkg_config_shared", flags), True)

    def pkg_config_static(self):
        flags = self.pkg_config("--static", "--cflags", "--libs", "vhostdev")
        flags = ["-l:libvhostdev.a" if flag == "-lvhostdev" else flag
                 for flag in flags]
        self.check(self.plain("pkg_config_static", flags), False)

    def testing(self):
        """vhostdev::testing, by CMake and by pkg-config."""
        for form in ("static", "shared"):
            folder = self.cmake(USE_TESTING, f"testing_{form}", f"-DFORM={form}")
            run([folder / "use_testing"])
        flags = self.pkg_config("--cflags", "--libs", "vhostdev-testing")
        program = self.fresh("testing_plain") / "use_testing"
        run([self.cxx, "-std=c++20", USE_TESTING / "main.cc", "-o", program,
             *flags, f"-Wl,-rpath,{self.libdir()}"])
        run([program])

    def older_language(self):
        """Every header says in its first error what is missing."""
        flags = self.pkg_config("--cflags", "vhostdev")
        headers = sorted((self.prefix / "include/vhostdev").glob("*.h"))
        if len(headers) < 20:
            fail(f"only {len(headers)} headers are installed")
        for header in headers:
            said = subprocess.run(
                [self.cxx, "-std=c++17", "-E", "-x", "c++", *flags,
                 header],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                check=False).stderr.decode()
            if NEEDS_CXX20 not in first_error(said):
                fail(f"{header.name} as C++17: {first_error(said)!r}")
        print(f"{len(headers)} headers ask for C++20")


def first_error(said):
    """The first error of a compiler's; empty if it had none."""
    return next((line for line in said.splitlines() if "error:" in line), "")


def self_test():
    assert first_error("") == ""
    assert first_error("a.h:1: note: x\nb.h:2: error: y\nc: error: z") == (
        "b.h:2: error: y")
    print("ok")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--cxx", required=True)
    parser.add_argument("step")
    arguments = parser.parse_args()
    if arguments.step == "self_test":
        self_test()
        return
    getattr(Tree(arguments.build.resolve(), arguments.cxx), arguments.step)()


if __name__ == "__main__":
    sys.exit(main())
