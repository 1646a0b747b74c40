#!/usr/bin/env python3
"""Levelfold on a GPU: packs what has to run there, and runs it there.

    backends/cuda/gpu/gpu.py pack            here: builds, and writes target/levelfold-gpu.tar.gz
    tar xf levelfold-gpu.tar.gz              on a machine with a GPU: Python 3.9 or later, and NVIDIA's driver; no cargo, no sources
    levelfold-gpu/gpu.py run --out report    tests, sanitizers, benchmarks, peers; writes report.md and report.json

Exit codes: 0 all that ran was well, 1 a stage failed, 2 wrong usage, 130 interrupted. docs/cuda.md says more.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import bundle
import stages

HERE = Path(__file__).resolve().parent


def positive(text):
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("a number above 0 is needed")
    return number


def size(text):
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    factor = units.get(text[-1:].upper(), 1)
    number = text[:-1] if factor > 1 else text
    if not number.isdigit() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: bytes, with K, M or G behind")
    return int(number) * factor


def file(text):
    """A path that stays what it is when the folder changes; a link is not followed: a Python environment begins at its own."""
    return Path(os.path.abspath(text))


def program(text):
    return file(text) if os.sep in text else text


def built(text):
    name, equals, path = text.partition("=")
    if not equals or name not in bundle.EXECUTABLES:
        raise argparse.ArgumentTypeError(f"NAME=FILE with a name of {', '.join(bundle.EXECUTABLES)} is needed")
    return name, Path(path)


def parser():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    pack = commands.add_parser("pack", help="builds a bundle, in a checkout of Levelfold")
    pack.add_argument("--out", type=Path, metavar="FILE", help="the bundle [default: target/levelfold-gpu.tar.gz]")
    pack.add_argument("--profile", choices=["release", "dev"], default="release", help="how executables are built [default: release]")
    pack.add_argument("--built", type=built, action="append", default=[], metavar="NAME=FILE", help="takes an executable that is there, and builds it not")

    run = commands.add_parser("run", help="runs everything, inside of a bundle that was unpacked")
    run.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER", help="where the report goes [default: report]")
    run.add_argument("--only", default="", metavar="REGEX", help="only stages whose names match (`list` has them)")
    run.add_argument("--limit", type=positive, default=600, metavar="SECONDS", help="the most time of a stage [default: 600]")
    run.add_argument("--seconds", type=positive, default=3600, metavar="SECONDS", help="no stage begins after that [default: 3600]")
    run.add_argument("--bytes", type=size, default=2**30, metavar="SIZE", help="of the rows of a benchmark [default: 1G]")
    run.add_argument("--rounds", type=int, default=15, metavar="N", help="samples of a benchmark [default: 15]")
    run.add_argument("--tests", default="", metavar="NAMES", help="only these tests of the conformance stage, separated by commas")
    run.add_argument("--sanitized", default=",".join(stages.SANITIZED), metavar="NAMES", help="tests that run under sanitizers [default: %(default)s]")
    run.add_argument("--each-case", type=int, default=4, metavar="N", help="sanitizers see every N-th case of a test [default: 4]")
    run.add_argument("--nvrtc", type=file, metavar="FILE", help="NVRTC, instead of what is found")
    run.add_argument("--sanitizer", type=file, metavar="FOLDER", help="where compute-sanitizer lies, instead of where it may lie")
    run.add_argument("--python", type=program, default=sys.executable, metavar="FILE", help="the Python that has the peers [default: this one]")
    run.add_argument("--no-install", action="store_true", help="fetches nothing by pip")

    show = commands.add_parser("list", help="the names of the stages of `run`")
    show.set_defaults(only="", sanitized=",".join(stages.SANITIZED))
    return top


def main():
    arguments = parser().parse_args()
    if arguments.command == "pack":
        return bundle.pack(arguments)
    if arguments.command == "list":
        print("\n".join(stages.names()))
        return 0
    if not (HERE / bundle.MANIFEST).exists():
        print("error: this is no bundle: `pack` makes one, which is unpacked and run on a machine with a GPU", file=sys.stderr)
        return 2
    return stages.run(arguments, HERE)


if __name__ == "__main__":
    # A shell that puts it into the background has Ctrl-C ignored; who sends it on purpose is heard all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:
        # Who read has enough, as `head` has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except bundle.Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        sys.exit(1)
