# SPDX-License-Identifier: Apache-2.0
"""What the checks of the installed tree and of the packages share."""

import contextlib
import pathlib
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = SOURCE / "docs/examples/embed"
SKIPPED = 77


def fail(message):
    print(f"failed: {message}")
    sys.exit(1)


def skip(reason):
    """Ends the test as skipped; tests/report.py shows the reason."""
    print(f"Skipped\n{reason}")
    sys.exit(SKIPPED)


def run(argv, **options):
    """The standard output, as bytes, of a command that must succeed."""
    argv = [str(arg) for arg in argv]
    print("+", *argv, flush=True)
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=False, **options)
    if done.returncode != 0:
        sys.stdout.write(done.stdout.decode(errors="replace"))
        fail(f"{argv[0]} ended with {done.returncode}")
    return done.stdout


@contextlib.contextmanager
def model_blk(command, socket, image):
    """A vhost-model-blk that serves `image`; it listens when this returns.

    `socket` and `image` are pairs: the path here, and the one that `command`
    sees.
    """
    image[0].write_bytes(b"the first sector".ljust(512, b".") + bytes(1 << 20))
    argv = [*command, "--socket-path", socket[1], "--blk-file", image[1]]
    argv = [str(arg) for arg in argv]
    print("+", *argv, "&", flush=True)
    with subprocess.Popen(argv) as backend:
        try:
            deadline = time.monotonic() + 10
            while not socket[0].is_socket():
                if backend.poll() is not None or time.monotonic() > deadline:
                    fail("vhost-model-blk does not listen")
                time.sleep(0.01)
            yield
        finally:
            backend.kill()


def check_sector(sector):
    """Whether this is what the example should have read."""
    if sector != b"the first sector".ljust(512, b"."):
        fail(f"the example read {sector[:32]!r}")
