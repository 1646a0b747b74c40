#!/usr/bin/env python3
"""Levelfold and the libraries that fold rows otherwise, over the same files, in the same run.

    benches/peers/run.py setup                          a virtual environment with the pinned peers
    benches/peers/run.py time words-256 --threads 1,2   measures a case (`list` names them), into target/peers/results
    benches/peers/run.py table                          what was measured so far, as Markdown

Only `setup` needs the network, and only peers need what it installs: without it, `--contenders levelfold` measures Levelfold alone. See
README.md beside this file for what is measured and how.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"

#: Raised whenever a field of the results changes its meaning.
VERSION = 1

#: Every contender, in the order of the table. The classes are in contenders.py.
PEERS = ["numba", "csr", "embedding-bag-thp", "embedding-bag", "jax", "segment-reduce", "reduceat", "jagged", "published"]
#: Those that run in a process with an environment of its own.
ENVIRONMENTS = {"embedding-bag-thp": {"THP_MEM_ALLOC_ENABLE": "1"}}


class Case:
    """A workload of `levelfold bench`, and how large it is: so many rows, or this share of --mib megabytes of f32 rows."""

    def __init__(self, about, workload, features, *, levels=None, keep="default", reduce="mean", rows=None, share=1.0, opt="1"):
        self.about, self.workload, self.features, self.levels = about, workload, features, levels
        self.keep, self.reduce, self.rows, self.share, self.opt = keep, reduce, rows, share, opt

    def rows_of(self, mib):
        return self.rows or max(1, int(self.share * mib * 2**20) // (4 * self.features))

    def arguments(self, mib):
        """For `levelfold bench`."""
        arguments = ["--workload", self.workload, "--features", str(self.features), "--rows", str(self.rows_of(mib))]
        arguments += ["--keep", self.keep, "--reduce", self.reduce]
        return arguments + (["--levels", str(self.levels)] if self.levels else [])


def cases():
    named = {}
    for features in (64, 256, 768, 1024):
        named[f"words-{features}"] = Case("one level of words, sum", "text", features, levels=1, reduce="sum")
    named["words-256-mean"] = Case("one level of words, mean", "text", 256, levels=1)
    named["words-256-max"] = Case("one level of words, max", "text", 256, levels=1, reduce="max")
    for features in (64, 256, 768):
        named[f"chain-{features}"] = Case("four levels, all kept, mean", "text", features, keep="all")
    named["chain-256-sentences"] = Case("four levels, words not kept", "text", 256)
    named["chain-256-corpus"] = Case("four levels, only the corpus kept", "text", 256, keep="top")
    named["skewed-64"] = Case("half of the rows in one segment, the others of one row; sum", "skewed", 64, levels=1, reduce="sum", share=0.5)
    named["flat-64"] = Case("one segment, sum", "flat", 64, reduce="sum")
    named["ones-64"] = Case("segments of one row, sum", "ones", 64, reduce="sum", share=0.5)
    named["lookup-256"] = Case("u8 ids, one level of words, sum", "lookup", 256, levels=1, reduce="sum")
    named["lookup-chain-256"] = Case("u8 ids, four levels, all kept", "lookup", 256, keep="all")
    named["lookup-chain-256-sentences"] = Case("u8 ids, four levels, words not kept", "lookup", 256)
    named["lookup-coarse-256"] = Case("u8 ids, only the corpus kept, sum, reassociated", "lookup-coarse", 256, reduce="sum", opt="1,2")
    for name, rows in (("20k", 20_000), ("2k", 2_000)):
        named[f"small-{name}"] = Case(f"{rows} rows in words, sum", "text", 64, levels=1, reduce="sum", rows=rows)
        named[f"small-lookup-{name}"] = Case(f"{rows} u8 ids in words, sum", "lookup", 64, levels=1, reduce="sum", rows=rows)
    named["small-chain-20k"] = Case("20000 rows, four levels, all kept", "text", 64, keep="all", rows=20_000)
    return named


CASES = cases()


def fail(message):
    sys.exit(f"error: {message}")


class Process:
    """A program that takes a sample for each line, and answers in JSON lines."""

    def __init__(self, name, command, environment, threads):
        self.name = name
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pin = (lambda: os.sched_setaffinity(0, cores[:threads])) if cores and threads < len(cores) else None
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, preexec_fn=pin
        )

    def event(self):
        """The next line."""
        line = self.process.stdout.readline()
        if not line:
            fail(f"{self.name} ended early, with exit code {self.process.wait()}")
        return json.loads(line)

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.event()

    def end(self):
        self.process.stdin.close()

    def wait(self):
        self.process.wait()


def environment(threads, more):
    """That of a process with so many threads. OpenBLAS is left to choose its own kernels."""
    variables = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        variables[name] = str(threads)
    variables["JAX_PLATFORMS"] = "cpu"
    return variables | more


def levelfold(arguments):
    """The command, built where nobody says where it is."""
    if arguments.levelfold:
        return str(arguments.levelfold)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "levelfold-cli"], cwd=ROOT, check=True)
    return str(ROOT / "target" / "release" / "levelfold")


def quantile(samples, q):
    """Between the two nearest samples, linearly, as `levelfold bench` has it."""
    samples = sorted(samples)
    position = q * (len(samples) - 1)
    low = int(position)
    high = min(low + 1, len(samples) - 1)
    return samples[low] + (samples[high] - samples[low]) * (position - low)


def spread(samples):
    return {"p10": quantile(samples, 0.1), "median": quantile(samples, 0.5), "p90": quantile(samples, 0.9)}


def python_of(venv):
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def setup(arguments):
    venv = arguments.venv
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(python_of(venv)), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")], check=True)
    print(f"installed into {venv}")


def measure(name, case, threads, peers, binary, arguments):
    """One case with so many threads, by Levelfold and these peers."""
    folder = arguments.data / f"{name}-{case.rows_of(arguments.mib)}"
    if not (folder / "spec.json").exists():
        subprocess.run([binary, "bench", "--quiet", *case.arguments(arguments.mib), "--export", str(folder)], check=True)
    command = [binary, "bench", "--data", str(folder), "--paced", "--quiet", "--opt", case.opt, "--threads", str(threads), "--seconds", "1e6"]
    command += ["--stream-bytes", arguments.stream_bytes]
    own = Process("levelfold", command, environment(threads, {}), threads)
    names = own.event()["contenders"]
    processes = []
    for group in [[peer for peer in peers if peer not in ENVIRONMENTS]] + [[peer] for peer in peers if peer in ENVIRONMENTS]:
        if group:
            more = ENVIRONMENTS.get(group[0], {})
            python = [str(python_of(arguments.venv)), str(HERE / "worker.py"), str(folder)]
            options = ["--contenders", ",".join(group), "--threads", str(threads), "--cap", str(arguments.cap)]
            processes.append(Process(", ".join(group), python + options, environment(threads, more), threads))
            facts = processes[-1].event()["contenders"]
            processes[-1].facts = facts
    samples = {label(config): [] for config in names}
    samples |= {peer: [] for process in processes for peer, facts in process.facts.items() if facts["status"] == "measured"}
    roofs = {"read": [], "write": [], "copy": []}
    order = random.Random(1)
    # One round to warm up, which does not count: it also wakes the threads of every library.
    for number in range(arguments.rounds + 1):
        turns = [own, *processes]
        order.shuffle(turns)
        for process in turns:
            event = process.round()
            # Threads that spin for a while after their work must not do it during that of others.
            time.sleep(0.03)
            if number == 0:
                continue
            if process is own:
                for config, seconds in zip(names, event["seconds"]):
                    samples[label(config)].append(seconds)
                for roof in roofs:
                    roofs[roof].append(event[f"{roof}_bytes_per_second"])
            else:
                for peer, seconds in event["seconds"].items():
                    samples[peer].append(seconds)
    own.end()
    report = own.event()["report"]
    for process in [own, *processes]:
        process.end()
    for process in [own, *processes]:
        process.wait()
    return result(name, case, threads, arguments, report, roofs, samples, processes)


def label(config):
    """`levelfold` for the default, `levelfold -O2` for what reassociates."""
    opt = config.split("-")[-1]
    return "levelfold" if opt == "O1" else f"levelfold -{opt}"


def result(name, case, threads, arguments, report, roofs, samples, processes):
    (bench,) = report["benches"]
    found = {}
    outputs = sum(written["floor_written_bytes"] for written in bench["rows"][:1])
    for row in bench["rows"]:
        grown = row["grown_bytes"]
        found["levelfold" if row["opt"] == "O1" else f"levelfold -{row['opt']}"] = {
            "status": "measured",
            "threads": "all",
            "check": row["check"],
            "error": row["error_to_f64"],
            "grown_bytes": grown,
            "extra_bytes": None if grown is None else max(0, grown - outputs),
            "planned_extra_bytes": row["arena_bytes"] + row["scratch_bytes"],
        }
    for process in processes:
        found |= process.facts
    floors = [bench["rows"][0]["floor_read_bytes"], bench["rows"][0]["floor_written_bytes"]]
    roof = {way: spread(rates) for way, rates in roofs.items()}
    floor = floors[0] / roof["read"]["median"] + floors[1] / roof["write"]["median"]
    for contender, times in samples.items():
        found[contender]["seconds"] = spread(times)
        found[contender]["samples"] = len(times)
        found[contender]["share_of_floor"] = floor / found[contender]["seconds"]["median"]
    return {
        "version": VERSION,
        "case": name,
        "about": case.about,
        "threads": threads,
        "rows": case.rows_of(arguments.mib),
        "features": case.features,
        "machine": report["machine"],
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": arguments.rounds,
        "segments": bench["levels"],
        "roof_bytes_per_second": roof,
        "floor_read_bytes": floors[0],
        "floor_written_bytes": floors[1],
        "floor_seconds": floor,
        "contenders": found,
    }


def time_cases(arguments):
    unknown = [name for name in arguments.case if name not in CASES]
    if unknown:
        fail(f"there is no case {', '.join(unknown)}: `list` names them")
    wanted = arguments.contenders.split(",") if arguments.contenders else ["levelfold", *PEERS]
    unknown = [name for name in wanted if name != "levelfold" and name not in PEERS]
    if unknown:
        fail(f"there is no contender {', '.join(unknown)}: `list` names them")
    peers = [peer for peer in PEERS if peer in wanted]
    if peers and not python_of(arguments.venv).exists():
        fail(f"{arguments.venv} has no Python: run `setup` first, or take --contenders levelfold")
    binary = levelfold(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.case:
        for threads in arguments.threads:
            found = measure(name, CASES[name], threads, peers, binary, arguments)
            place = arguments.out / f"{name}.t{threads}.json"
            place.write_text(json.dumps(found, indent=1) + "\n")
            print(line(found))
        if not arguments.keep_data:
            shutil.rmtree(arguments.data / f"{name}-{CASES[name].rows_of(arguments.mib)}", ignore_errors=True)


def duration(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def cell(facts):
    """What a table says of one contender."""
    if facts is None:
        return "–"
    if facts["status"] == "measured":
        return duration(facts["seconds"]["median"])
    if facts["status"] == "pilot":
        return f"about {duration(facts['estimated_seconds'])}"
    return {"cannot": "cannot", "not installed": "–", "failed": "failed"}[facts["status"]]


def line(found):
    """One result for a terminal."""
    parts = [f"{contender} {cell(facts)}" for contender, facts in found["contenders"].items()]
    return f"{found['case']}, {found['threads']} thread(s): floor {duration(found['floor_seconds'])}; " + ", ".join(parts)


def table(arguments):
    """Everything that was measured, merged."""
    paths = arguments.json or sorted(arguments.out.glob("*.t*.json"))
    if not paths:
        fail(f"there is nothing in {arguments.out}: run `time` first, or name files")
    results = []
    for path in paths:
        try:
            read = json.loads(Path(path).read_text())
        except (OSError, ValueError) as cause:
            fail(f"{path}: {cause}")
        for found in read if isinstance(read, list) else [read]:
            if not isinstance(found, dict) or found.get("version") != VERSION:
                fail(f"{path} is no result of version {VERSION}")
            results.append(found)
    results.sort(key=lambda found: (found["threads"], list(CASES).index(found["case"]) if found["case"] in CASES else len(CASES)))
    if arguments.merge:
        arguments.merge.write_text(json.dumps(results, indent=0) + "\n")
    print(markdown(results))


def markdown(results):
    text = []
    for threads in sorted({found["threads"] for found in results}):
        own = [found for found in results if found["threads"] == threads]
        names = ["levelfold", "levelfold -O2", *PEERS]
        names = [name for name in names if any(name in found["contenders"] for found in own)]
        text.append(f"### {threads} thread{'s' if threads > 1 else ''}\n")
        text.append("| case | read / write roof, GB/s | floor | share of floor | " + " | ".join(names) + " |")
        text.append("|---|---|---|---|" + "---|" * len(names))
        for found in own:
            roof = " / ".join(f"{found['roof_bytes_per_second'][way]['median'] / 1e9:.1f}" for way in ("read", "write"))
            share = found["contenders"].get("levelfold", {}).get("share_of_floor")
            cells = [cell(found["contenders"].get(name)) for name in names]
            start = [found["case"], roof, duration(found["floor_seconds"]), "–" if share is None else f"{100 * share:.0f} %"]
            text.append("| " + " | ".join(start + cells) + " |")
        text.append("")
        text.append("Beyond the inputs and the results, MB · largest error from f64, of the magnitudes:\n")
        text.append("| case | " + " | ".join(names) + " |")
        text.append("|---|" + "---|" * len(names))
        for found in own:
            text.append("| " + " | ".join([found["case"]] + [aside(found["contenders"].get(name)) for name in names]) + " |")
        text.append("")
    return "\n".join(text)


def aside(facts):
    if facts is None or facts["status"] != "measured":
        return "–"
    extra = facts.get("extra_bytes")
    return f"{'–' if extra is None else f'{extra / 1e6:.0f}'} · {facts['error']:.1e}"


def list_all():
    print("cases")
    for name, case in CASES.items():
        print(f"  {name:<28} {case.about}; {case.features} features" + (f", {case.rows} rows" if case.rows else ""))
    print("contenders")
    for peer in ["levelfold", *PEERS]:
        print(f"  {peer}")


def main():
    threads = lambda text: [int(word) for word in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="names cases and contenders")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="names cases and contenders")
    for command, about in (("setup", "installs the peers"), ("time", "measures"), ("table", "prints what was measured")):
        one = commands.add_parser(command, help=about)
        one.add_argument("--venv", type=Path, default=WORK / "venv", help="the virtual environment of the peers")
        one.add_argument("--out", type=Path, default=WORK / "results", help="where results lie")
        if command == "time":
            one.add_argument("case", nargs="+")
            one.add_argument("--contenders", help="separated by commas; all without it")
            one.add_argument("--threads", type=threads, default=[1, 2], help="thread counts, separated by commas")
            one.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
            one.add_argument("--mib", type=int, default=512, help="megabytes of leaf rows in cases that do not fit a cache")
            one.add_argument("--cap", type=float, default=3.0, help="a contender that takes longer, in seconds, is only estimated")
            one.add_argument("--levelfold", type=Path, help="the command; built by cargo without it")
            one.add_argument("--data", type=Path, default=WORK / "data", help="where the exported files lie meanwhile")
            one.add_argument("--stream-bytes", default="1G", help="the buffer that memory's bandwidth is measured over, as for `levelfold bench`")
            one.add_argument("--keep-data", action="store_true", help="keeps the exported files")
        if command == "table":
            one.add_argument("json", nargs="*", type=Path, help="results; all of --out without it")
            one.add_argument("--merge", type=Path, help="writes all of them into this file too")
    arguments = parser.parse_args()
    if arguments.list or arguments.command == "list":
        list_all()
    elif arguments.command == "setup":
        setup(arguments)
    elif arguments.command == "time":
        if arguments.rounds < 1 or any(count < 1 for count in arguments.threads) or arguments.mib < 1:
            fail("--rounds, --threads and --mib take numbers of 1 or more")
        time_cases(arguments)
    elif arguments.command == "table":
        table(arguments)
    else:
        parser.print_help()
        sys.exit(2)


if __name__ == "__main__":
    main()
