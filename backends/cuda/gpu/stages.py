"""The stages of a run: each with a time limit, in a process of its own; one that fails does not stop the others."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import bundle
import machine
import report

#: What runs under sanitizers, where nothing else is said: every way to read rows, long segments, several levels, copies, roundings.
SANITIZED = (
    "lengths", "layouts", "ranges", "empty_segments", "shapes", "weights", "siblings", "levels", "lookups", "literal",
    "every_half_widens_and_every_midpoint_rounds_as_it_should",
)
TOOLS = ("memcheck", "racecheck", "initcheck")
REPLAY = "replay::a_small_plan_is_replayed_over_memory_of_the_device"
#: The exit code of compute-sanitizer where it has found something.
FOUND = 77


@dataclass
class Case:
    """One benchmark: a workload of `levelfold bench`."""

    workload: str
    features: int
    dtype: str
    chain: bool = False
    peers: bool = True

    @property
    def name(self):
        return f"{'chain' if self.chain else self.workload}-{self.features}-{self.dtype}"

    def rows(self, count):
        return max(1, count // (self.features * (4 if self.dtype == "f32" else 2)))

    def arguments(self, rows, features):
        """For `levelfold bench`."""
        arguments = ["--workload", self.workload, "--rows", rows, "--features", features, "--reduce", "sum"]
        return arguments + (["--keep", "all"] if self.chain else ["--levels", "1"])


def cases():
    """The most important ones first."""
    found = []
    for dtype, widths in (("f32", (256, 64, 768, 1024)), ("bf16", (256, 128, 768, 1024))):
        for width in widths:
            found += [Case(workload, width, dtype) for workload in ("text", "skewed", "flat", "ones")]
            found.append(Case("text", width, dtype, chain=True))
    found.append(Case("text", 64, "bf16"))
    found.append(Case("lookup", 256, "f32", peers=False))
    # One of each shape before the second of any.
    return sorted(found, key=lambda case: (case.features != 256, case.dtype != "f32"))


def names():
    every = [*("device", "nvrtc", "backends", "copy", "conformance"), *TOOLS, "replay"]
    return every + [f"bench:{case.name}" for case in cases()] + ["peers"] + [f"peers:{case.name}" for case in cases() if case.peers]


class Skip(Exception):
    """A stage cannot run here, and why."""


class Fail(Exception):
    """A stage failed, and how; and what it had printed, where it was ended."""

    def __init__(self, how, printed=""):
        super().__init__(how)
        self.printed = printed


@dataclass
class Outcome:
    name: str
    state: str = "passed"
    why: str = ""
    seconds: float = 0.0
    command: str = ""
    facts: dict = field(default_factory=dict)
    #: The end of what a failed one said.
    said: list = field(default_factory=list)


@dataclass
class Done:
    code: int
    out: str
    err: str

    def last(self, count=1):
        lines = [line for line in (self.out + "\n" + self.err).splitlines() if line.strip()]
        return lines[-count:]


class Run:
    def __init__(self, arguments, here):
        self.arguments, self.here = arguments, here
        self.manifest = bundle.unpacked(here)
        self.out = arguments.out.resolve()
        self.work = self.out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        self.outcomes = []
        self.facts = {}
        self.environment = dict(os.environ, LEVELFOLD_REQUIRE_DEVICE="1", XDG_CACHE_HOME=str(self.work / "cache"))
        self.nvrtc = []

    # ------------------------------------------------------------------------------------------------------- running

    def call(self, outcome, command, environment=None):
        """Runs a command to its end, or to the limit, when it is ended with all that it started."""
        command = [str(word) for word in command]
        outcome.command = shlex.join(command)
        process = subprocess.Popen(
            command, cwd=self.work, env=environment or self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )
        limit = self.arguments.limit
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            end(process)
            out, err = process.communicate()
            outcome.said = Done(1, out, err).last(20)
            raise Fail(f"it ran past its limit of {limit:g} s, and was ended", out) from None
        except BaseException:
            end(process)
            raise
        done = Done(process.returncode, out, err)
        outcome.said = done.last(20)
        return done

    def stage(self, name, function, *arguments):
        if not re.search(self.arguments.only, name):
            return None
        outcome = Outcome(name)
        start = time.monotonic()
        left = self.arguments.seconds - (start - self.started)
        try:
            if left <= 0:
                raise Skip(f"no time was left of --seconds {self.arguments.seconds:g}")
            function(outcome, *arguments)
        except Skip as reason:
            outcome.state, outcome.why = "skipped", str(reason)
        except Fail as reason:
            outcome.state, outcome.why = "failed", str(reason)
        except KeyboardInterrupt:
            outcome.state, outcome.why = "failed", "it was interrupted"
            raise
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            outcome.state, outcome.why = "failed", f"{type(error).__name__}: {error}"
        finally:
            outcome.seconds = round(time.monotonic() - start, 2)
            if outcome.state == "passed":
                outcome.said = []
            self.outcomes.append(outcome)
            why = f": {outcome.why}" if outcome.why else ""
            print(f"[{outcome.seconds:7.1f} s] {outcome.state:<8}{name}{why}", file=sys.stderr, flush=True)
            report.write(self)
        return outcome

    def needs_device(self):
        if "device" not in self.facts:
            raise Skip("there is no device")

    def needs_nvrtc(self):
        self.needs_device()
        if "nvrtc" not in self.facts:
            raise Skip("there is no NVRTC")

    # ------------------------------------------------------------------------------------------------------- the stages

    def device(self, outcome):
        done = self.call(outcome, [sys.executable, self.here / "machine.py", "device"])
        if done.code:
            raise Fail(done.last()[0] if done.last() else f"exit code {done.code}")
        outcome.facts = self.facts["device"] = json.loads(done.out)

    def find_nvrtc(self, outcome):
        self.needs_device()
        newest = int(self.facts["device"]["cuda_of_driver"].split(".")[0])
        file, release, how = machine.find_nvrtc(self.arguments.nvrtc, newest, self.work, not self.arguments.no_install)
        if not file:
            raise Fail(how)
        outcome.facts = self.facts["nvrtc"] = {"file": file, "release": ".".join(map(str, release)), "found": how}
        if os.sep in file:
            self.environment["LEVELFOLD_NVRTC"] = file
            self.nvrtc = ["--nvrtc", file]

    def backends(self, outcome):
        self.needs_nvrtc()
        done = self.call(outcome, [self.here / "bin/levelfold", "backends", "--json", *self.nvrtc])
        if done.code:
            raise Fail(f"exit code {done.code}")
        (cuda,) = [row for row in json.loads(done.out) if row["name"] == "cuda"]
        outcome.facts = cuda
        if not cuda["available"]:
            raise Fail(cuda["about"])

    def copy(self, outcome):
        self.needs_device()
        done = self.call(outcome, [sys.executable, self.here / "machine.py", "copy", self.arguments.bytes, 9])
        if done.code:
            raise Fail(done.last()[0] if done.last() else f"exit code {done.code}")
        outcome.facts = self.facts["copy"] = json.loads(done.out)

    def tests(self, outcome, wrapper, tests, *options, each=1):
        """Runs the test program; what it counts becomes facts."""
        self.needs_nvrtc()
        exact = ["--exact"] if tests else []
        environment = dict(self.environment, LEVELFOLD_EACH_CASE=str(each))
        done = self.call(outcome, [*wrapper, self.here / "bin/device", *tests, *exact, "--show-output", *options], environment)
        counted = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", done.out)
        if counted:
            outcome.facts |= {"passed": int(counted[1]), "failed": int(counted[2])}
        failed = re.findall(r"^test (\S+) \.\.\. FAILED", done.out, re.M)
        outcome.facts |= {"cases_without_kernels": done.out.count("skipped: case"), "failed_tests": failed}
        if wrapper:
            outcome.facts["summary"] = [line.lstrip("= ") for line in (done.out + done.err).splitlines() if line.startswith("=====") and "SUMMARY" in line]
            if done.code == FOUND:
                raise Fail(f"the sanitizer has something to report: {'; '.join(outcome.facts['summary']) or 'see below'}")
        if done.code or not counted or int(counted[2]):
            panic = re.search(r"panicked at .*?:\n(.*)", done.out + done.err)
            raise Fail(f"{len(failed)} tests failed" + (f", the first {failed[0]}" if failed else f", exit code {done.code}") + (f": {panic[1]}" if panic else ""))
        if int(counted[1]) == 0:
            raise Fail(f"no test has one of these names: {', '.join(tests)}")
        return done

    def conformance(self, outcome):
        tests = [name for name in self.arguments.tests.split(",") if name]
        # `script` tests these scripts, with a compiler: it stays at home. The replay has a stage of its own.
        self.tests(outcome, [], full(tests), "--skip", "script::", "--skip", "replay::")

    def sanitize(self, outcome, tool):
        self.needs_nvrtc()
        newest = int(self.facts["device"]["cuda_of_driver"].split(".")[0])
        file, reason = machine.find_sanitizer(self.arguments.sanitizer, newest, self.work, not self.arguments.no_install)
        if not file:
            raise Skip(reason)
        wrapper = [file, "--tool", tool, "--error-exitcode", FOUND, "--print-limit", 20]
        self.tests(outcome, wrapper, full(self.arguments.sanitized.split(",")), "--test-threads=1", each=self.arguments.each_case)

    def replay(self, outcome):
        done = self.tests(outcome, [], [REPLAY], "--test-threads=1")
        outcome.facts["measured"] = [json.loads(line[len("measured "):]) for line in done.out.splitlines() if line.startswith("measured ")]
        if not outcome.facts["measured"]:
            raise Fail("nothing was measured")

    def bench(self, outcome, case):
        self.needs_nvrtc()
        count = self.arguments.bytes
        options = ["--backends", "cpu,cuda", "--opt", "1", "--rounds", self.arguments.rounds, "--seconds", 6, "--stream-bytes", max(2**20, count // 2)]
        command = [self.here / "bin/levelfold", "bench", *case.arguments(case.rows(count), case.features), "--dtype", case.dtype, *options, *self.nvrtc, "--json", "--quiet"]
        done = self.call(outcome, command)
        if done.code:
            raise Fail(done.last()[0] if done.last() else f"exit code {done.code}")
        found = json.loads(done.out)
        (bench,) = found["benches"]
        rows = {row["backend"]: row for row in bench["rows"]}
        cuda, cpu = rows["cuda"], rows["cpu"]
        kernels = cuda["kernel_seconds"]["median"]
        rate = cuda["moved_bytes"] / kernels if kernels > 0 else 0.0
        ceiling = self.facts.get("copy", {}).get("copy_bytes_per_second")
        outcome.facts = {
            "case": case.name,
            "rows": case.rows(count),
            "levels": bench["levels"],
            "check": cuda["check"],
            "checked_rows": bench["checked_rows"],
            "same_bits": cpu["hash"] == cuda["hash"],
            "cpu_seconds": cpu["seconds"]["median"],
            "cuda_seconds": cuda["seconds"]["median"],
            "transfer_seconds": cuda["transfer_seconds"]["median"],
            "kernel_seconds": cuda["kernel_seconds"],
            "moved_bytes": cuda["moved_bytes"],
            "bytes_per_second": rate,
            "share_of_copy": rate / ceiling if ceiling else None,
        }
        if not outcome.facts["same_bits"]:
            raise Fail("cpu and cuda give other bits")

    def find_peers(self, outcome):
        self.needs_device()
        program = "import torch; print(torch.__version__, torch.cuda.is_available())"
        python = self.arguments.python
        done = self.call(outcome, [python, "-c", program])
        if done.code:
            outcome.said = []
            raise Skip(f"{python} has no torch")
        version, sees = done.out.split()
        if sees != "True":
            raise Skip(f"torch {version} sees no CUDA device")
        outcome.facts = self.facts["peers"] = {"torch": version, "python": str(python)}

    def peers(self, outcome, case):
        folder = self.work / "peers" / case.name
        # Only the segments are taken from it, so rows of one feature are enough.
        arguments = case.arguments(case.rows(self.arguments.bytes), 1)
        exported = self.call(outcome, [self.here / "bin/levelfold", "bench", *arguments, "--export", folder, "--quiet"])
        if exported.code:
            raise Fail(exported.last()[0])
        options = ["--features", case.features, "--dtype", case.dtype, "--seconds", min(60, self.arguments.limit * 0.8)]
        contenders = lambda printed: {"case": case.name, "contenders": [json.loads(line) for line in printed.splitlines() if line.startswith("{") and line.endswith("}")]}
        try:
            done = self.call(outcome, [self.arguments.python, self.here / bundle.PEERS, folder, *options])
        except Fail as ended:
            # Those that were measured before it was ended count.
            outcome.facts = contenders(ended.printed)
            raise
        finally:
            for file in folder.glob("*"):
                file.unlink()
        outcome.facts = contenders(done.out)
        if done.code:
            raise Fail(done.last()[0] if done.last() else f"exit code {done.code}")


def full(tests):
    """Names of tests with the modules that they stand in."""
    return ["numbers::" + name if name.startswith("every_half") else name for name in tests]


def end(process):
    """Ends a process, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(arguments, here):
    try:
        re.compile(arguments.only)
    except re.error as error:
        print(f"error: --only {arguments.only!r} is no regular expression: {error}", file=sys.stderr)
        return 2
    if not any(re.search(arguments.only, name) for name in names()):
        print(f"error: no stage matches --only {arguments.only!r}: `gpu.py list` has their names", file=sys.stderr)
        return 2
    session = Run(arguments, here)
    # What the others need is found whatever is asked for.
    asked, arguments.only = arguments.only, ""
    session.stage("device", session.device)
    session.stage("nvrtc", session.find_nvrtc)
    arguments.only = asked
    session.stage("backends", session.backends)
    session.stage("copy", session.copy)
    session.stage("conformance", session.conformance)
    for tool in TOOLS:
        session.stage(tool, session.sanitize, tool)
    session.stage("replay", session.replay)
    for case in cases():
        session.stage(f"bench:{case.name}", session.bench, case)
    if any(name.startswith("peers") and re.search(asked, name) for name in names()):
        arguments.only = ""
        session.stage("peers", session.find_peers)
        arguments.only = asked
        for case in cases():
            if case.peers and "peers" in session.facts:
                session.stage(f"peers:{case.name}", session.peers, case)
    failed = [outcome.name for outcome in session.outcomes if outcome.state == "failed"]
    print(report.text(session))
    print(f"wrote {session.out / 'report.md'} and report.json", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} stages failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
