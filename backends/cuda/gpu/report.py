"""What a run found: report.md, to be read and committed under docs/benchmarks, and report.json with all of it."""

import json
import os
import platform
import shlex
import sys
from dataclasses import asdict


def write(run):
    """Writes both, whole or not at all. Called after each stage, so that what is cut short leaves what it had."""
    content = {
        "format": "levelfold gpu report",
        "version": 1,
        "date": run.date,
        "command": command(),
        "bundle": {key: value for key, value in run.manifest.items() if key != "files"},
        "host": host(),
        **{key: run.facts.get(key) for key in ("device", "nvrtc", "copy", "peers")},
        "stages": [asdict(outcome) for outcome in run.outcomes],
    }
    for name, text in (("report.json", json.dumps(content, indent=1) + "\n"), ("report.md", text_of(run))):
        unfinished = run.out / (name + ".unfinished")
        unfinished.write_text(text)
        os.replace(unfinished, run.out / name)


def text(run):
    return text_of(run)


def command():
    return shlex.join(["gpu.py", *sys.argv[1:]])


def host():
    return f"{platform.machine()} {platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def seconds(value):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def rate(value):
    return f"{value / 1e9:.4g} GB/s"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows] + [""]


def text_of(run):
    device, nvrtc = run.facts.get("device"), run.facts.get("nvrtc")
    lines = [f"# Levelfold on {device['device'] if device else 'a machine without a device'}", ""]
    facts = [("date", run.date), ("command", f"`{command()}`")]
    if device:
        facts.append(("device", f"{device['device']}, compute capability {device['compute_capability']}, {device['memory_bytes'] / 2**30:.1f} GiB"))
        facts.append(("driver", f"{device['driver'] or 'of unknown version'}, for CUDA {device['cuda_of_driver']}"))
    if nvrtc:
        facts.append(("NVRTC", f"{nvrtc['release']}, {nvrtc['found']}: `{nvrtc['file']}`"))
    manifest = run.manifest
    changed = ", with changes that were not committed" if manifest["changed"] else ""
    facts.append(("Levelfold", f"commit {manifest['commit'] or 'unknown'}{changed}, packed {manifest['packed']}, profile {manifest['profile']}, {manifest['rustc']}"))
    facts.append(("host", host()))
    if "copy" in run.facts:
        found = run.facts["copy"]
        facts.append(("copy inside of the device, read and written", f"{rate(found['copy_bytes_per_second'])} ({rate(found['slowest'])} to {rate(found['fastest'])})"))
    lines += table(("", ""), facts)
    counts = {state: sum(outcome.state == state for outcome in run.outcomes) for state in ("passed", "failed", "skipped")}
    lines += ["## Stages", "", ", ".join(f"{count} {state}" for state, count in counts.items()) + ".", ""]
    lines += table(("stage", "", "time", ""), [(o.name, o.state, f"{o.seconds:.1f} s", o.why or remark(o)) for o in run.outcomes])
    lines += benches(run) + replays(run)
    for outcome in run.outcomes:
        if outcome.state == "failed" and outcome.said:
            lines += [f"### {outcome.name} failed", "", f"`{outcome.command}`", "", "```text", *outcome.said, "```", ""]
    return "\n".join(lines)


def remark(outcome):
    facts = outcome.facts
    if "passed" in facts:
        skipped = f"; {facts['cases_without_kernels']} cases skipped, whose steps have no kernels" if facts["cases_without_kernels"] else ""
        return f"{facts['passed']} tests passed{skipped}" + "".join(f"; {line}" for line in facts.get("summary", []))
    if "check" in facts:
        copied = f" over a copy of {facts['checked_rows']} rows" if facts["checked_rows"] else ""
        return f"checked: {facts['check']}{copied}"
    return ""


def benches(run):
    """Every case, and beside it the best of the peers."""
    peers = {o.facts["case"]: o.facts["contenders"] for o in run.outcomes if o.facts.get("contenders")}
    rows = []
    for outcome in run.outcomes:
        facts = outcome.facts
        if outcome.state != "passed" or "kernel_seconds" not in facts:
            continue
        kernels = facts["kernel_seconds"]
        share = f"{facts['share_of_copy']:.0%}" if facts["share_of_copy"] else "not measured"
        measured = [one for one in peers.get(facts["case"], []) if one["status"] == "measured" and one["contender"] != "copy"]
        best = min(measured, key=lambda one: one["seconds"], default=None)
        beside = f"{best['contender']} {seconds(best['seconds'])}" if best else "not measured"
        spread = f"{seconds(kernels['median'])} ({seconds(kernels['p10'])} to {seconds(kernels['p90'])})"
        whole = f"{seconds(facts['cuda_seconds'])}, {seconds(facts['transfer_seconds'])} of it in transfers"
        rows.append((facts["case"], facts["rows"], spread, rate(facts["bytes_per_second"]), share, whole, seconds(facts["cpu_seconds"]), beside))
    if not rows:
        return []
    head = ("case", "rows", "kernels, by the device's clock", "moved", "of the copy's rate", "whole run from the host's memory", "cpu", "best peer")
    lines = ["## Benchmarks", "", "Bits equal those of the CPU backend, and where all rows were checked those of the reference.", ""] + table(head, rows)
    if peers:
        lines += ["### Peers", ""]
        every = [(case, one["contender"], one["status"], seconds(one["seconds"]) if "seconds" in one else "", one.get("error", ""), one.get("why", "")) for case, found in peers.items() for one in found]
        lines += table(("case", "contender", "", "time", "largest error to f64", ""), every)
    return lines


def replays(run):
    rows = []
    for outcome in run.outcomes:
        for one in outcome.facts.get("measured", []):
            rows.append((f"{one['rows']} × {one['features']}", f"{one['whole_us']:.1f} µs (p90 {one['whole_p90_us']:.1f})", f"{one['kernels_us']:.1f} µs", one["runs"]))
    if not rows:
        return []
    return ["## A small plan, replayed over memory of the device", ""] + table(("rows", "a run, as the caller sees it", "by the device's clock", "runs"), rows)
