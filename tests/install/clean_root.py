#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the Debian packages and uses them in a Debian that has nothing else.

clean_root.py --build BUILD --cache CACHE STEP

  packages  runs cpack in BUILD, and looks the packages over
  debian    makes CACHE/debian-*.tar: a Debian 12 with the packages that ours
            depend on downloaded, not installed
  use       unpacks that, installs ours without a network, uses them, compiles
            the example there, and removes them
"""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from support import EXAMPLE, check_sector, fail, model_blk, run, skip

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
TOOLCHAIN = ["cmake", "g++", "make", "pkg-config"]
OURS = re.compile(r"(lib)?vhostdev")
# The library's own is called after its version.
PACKAGES = ("libvhostdev[0-9]*", "libvhostdev-dev", "vhostdev-tools")
APT = ["apt-get", "-qq", "-y", "--no-install-recommends",
       "-o", "Dpkg::Options::=--force-unsafe-io", "install"]


def field(package, name):
    return run(["dpkg-deb", "-f", package, name]).decode().strip()


def dependencies(fields):
    """Names of the packages in Depends fields that are not ours."""
    names = set()
    for part in ",".join(fields).split(","):
        name = re.sub(r"\(.*|\|.*|:\w+", "", part).strip()
        if name and not OURS.match(name):
            names.add(name)
    return sorted(names)


class CleanRoot:
    def __init__(self, build, cache):
        self.build = build
        self.cache = cache
        self.debs = build / "packages"

    def deb(self, name):
        found = list(self.debs.glob(f"{name}_*.deb"))
        if len(found) != 1:
            fail(f"{len(found)} packages of {name} in {self.debs}")
        return found[0]

    def make_packages(self):
        shutil.rmtree(self.debs, ignore_errors=True)
        run(["cpack", "-G", "DEB"], cwd=self.build)
        for pattern in PACKAGES:
            deb = self.deb(pattern)
            name = field(deb, "Package")
            contents = run(["dpkg-deb", "-c", deb]).decode()
            if f"./usr/share/doc/{name}/copyright" not in contents:
                fail(f"{name} has no copyright file")
            for owner in {line.split()[1] for line in contents.splitlines()}:
                if owner != "root/root":
                    fail(f"{name} has files of {owner}")
            if "libabsl" not in field(deb, "Depends"):
                fail(f"{name} does not depend on Abseil")
            description = field(deb, "Description").splitlines()
            if len(description) < 3 or not field(deb, "Section"):
                fail(f"{name} does not say what it is")
        shared = field(self.deb(PACKAGES[0]), "Depends")
        needed = ("libglib2.0-0", "libfdt1")
        if any(name not in shared for name in needed) or "-dev" in shared:
            fail(f"{PACKAGES[0]} depends on {shared}")

    def wanted(self):
        fields = [field(self.deb(name), "Depends") for name in PACKAGES]
        return sorted({*dependencies(fields), *TOOLCHAIN})

    def recipe(self):
        """How the Debian is made, but for the file it becomes."""
        download = " ".join(["chroot", '"$1"', *APT, "--download-only",
                             *self.wanted()])
        return ["mmdebstrap", "--quiet", "--variant=apt", "--skip=cleanup/apt",
                '--customize-hook=chroot "$1" apt-get clean',
                f"--customize-hook={download}", SUITE]

    def tar(self):
        digest = hashlib.sha256(str(self.recipe()).encode()).hexdigest()
        return self.cache / f"debian-{digest[:12]}.tar"

    def make_debian(self):
        if os.geteuid() != 0:
            skip("only root can make a root file system")
        tar = self.tar()
        if tar.exists():
            print(f"{tar} is there")
            return
        if not reachable(f"{MIRROR}/dists/{SUITE}/Release"):
            skip(f"{MIRROR} cannot be reached")
        self.cache.mkdir(parents=True, exist_ok=True)
        for old in self.cache.glob("debian-*"):
            old.unlink()
        part = tar.with_suffix(".part.tar")
        run([*self.recipe(), part])
        part.rename(tar)

    def use(self):
        if os.geteuid() != 0 or not self.tar().exists():
            skip("there is no Debian to install in (see install.debian)")
        with tempfile.TemporaryDirectory(prefix="vhostdev-root-") as name:
            root = pathlib.Path(name)
            run(["tar", "-C", root, "-xf", self.tar()])
            Guest(root).use([self.deb(name) for name in PACKAGES],
                            self.build / "install/cmake_shared/embed")


class Guest:
    """A file system to run programs in; they have no network."""

    def __init__(self, root):
        self.root = root
        self.inside = ["unshare", "--net", "--mount", "--kill-child", "--fork",
                       "chroot", root]

    def run(self, *argv, **options):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                       "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return run([*self.inside, *argv], env=environment,
                   stderr=subprocess.STDOUT if argv[0] == "apt-get" else None,
                   **options)

    def install(self, *packages):
        self.run(*APT, *packages)

    def ours(self):
        """Files in it that can only be ours."""
        return sorted(str(path.relative_to(self.root))
                      for folder in ("usr", "etc", "var/lib/dpkg/info")
                      for path in (self.root / folder).rglob("*")
                      if re.search("vhostdev|vhostctl|vhost-model|minivm",
                                   path.name))

    def use(self, debs, embed):
        """Installs, uses and removes everything."""
        if before := self.ours():
            fail(f"not a clean Debian: {before}")
        for deb in debs:
            shutil.copy(deb, self.root / "root")
        library, dev, tools = (f"/root/{deb.name}" for deb in debs)
        self.install(library, tools)
        self.use_tools()
        # What was linked elsewhere runs here.
        shutil.copy(embed, self.root / "root/embed")
        self.read_disk("/root/embed")
        self.install(dev, *TOOLCHAIN)
        self.compile_example()
        self.run("dpkg", "--audit")
        self.run("dpkg", "--purge", *(field(deb, "Package") for deb in debs))
        if after := self.ours():
            fail(f"left behind: {after}")

    def use_tools(self):
        if b"vhostctl" not in self.run("vhostctl", "--help"):
            fail("vhostctl --help says nothing of it")
        if b"minivm run" not in self.run("minivm", "--help"):
            fail("minivm --help says nothing of it")
        if b'"block"' not in self.run("vhost-model-blk", "--print-capabilities"):
            fail("vhost-model-blk does not say what it can do")
        manifest = self.root / "usr/share/qemu/vhost-user/50-vhost-model-blk.json"
        if '"/usr/bin/vhost-model-blk"' not in manifest.read_text():
            fail("QEMU would not find vhost-model-blk")
        self.read_disk("vhostctl", "blk", "read", "--length", "512", "--output",
                       "-", "--socket")

    def read_disk(self, *reader):
        """The reader, given a socket, prints the first sector."""
        socket, image = self.root / "root/disk.sock", self.root / "root/disk.img"
        socket.unlink(missing_ok=True)
        with model_blk([*self.inside, "vhost-model-blk"],
                       (socket, "/root/disk.sock"), (image, "/root/disk.img")):
            check_sector(self.run(*reader, "/root/disk.sock"))

    def compile_example(self):
        shutil.copytree(EXAMPLE, self.root / "root/example")
        compile_plain = "g++ -std=c++20 /root/example/main.cc -o /root/plain"
        self.run("sh", "-c", f"{compile_plain} $(pkg-config --cflags --libs "
                             "vhostdev)")
        self.read_disk("/root/plain")
        self.run("cmake", "-S", "/root/example", "-B", "/root/static",
                 "-DBUILD_SHARED_LIBS=OFF")
        self.run("cmake", "--build", "/root/static")
        self.read_disk("/root/static/embed")


def reachable(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def self_test():
    assert dependencies(["libc6 (>= 2.34), libvhostdev0.1 (= 1)",
                         "a:any | b, vhostdev-tools", ""]) == ["a", "libc6"]


def main():
    self_test()
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("step", choices=("packages", "debian", "use"))
    arguments = parser.parse_args()
    clean_root = CleanRoot(arguments.build.resolve(), arguments.cache.resolve())
    {"packages": clean_root.make_packages, "debian": clean_root.make_debian,
     "use": clean_root.use}[arguments.step]()


if __name__ == "__main__":
    sys.exit(main())
