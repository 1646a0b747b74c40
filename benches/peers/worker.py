"""One process of contenders over one exported case, timed at the pace of `run.py`: a round for each line on stdin, a JSON line for each."""

import argparse
import gc
import json
import logging
import os
import random
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np

import contenders as known

#: The shortest sample that a clock and a scheduler leave meaningful, in seconds: that of `levelfold bench`.
SHORTEST = 5e-3
#: A result further than this from a fold in f64, of the sum of magnitudes, is wrong and not merely rounded.
TOLERANCE = 1e-4
#: A pilot runs over one part in so many of the rows.
PILOT = 32


@dataclass
class Level:
    name: str
    offsets: np.ndarray
    reduce: str
    keep: bool

    def __post_init__(self):
        self.lengths = np.diff(self.offsets)
        self.longest = int(self.lengths.max())
        self.rows = int(self.offsets[-1])


@dataclass
class Case:
    values: np.ndarray | None
    ids: np.ndarray | None
    table: np.ndarray | None
    levels: list
    _exact: list | None = None

    def exact(self):
        """What `exact_levels` gives, worked out once."""
        if self._exact is None:
            self._exact = exact_levels(self)
        return self._exact

    def forget_exact(self):
        self._exact = None

    @property
    def features(self):
        return (self.values if self.table is None else self.table).shape[1]

    @property
    def rows(self):
        return self.levels[0].rows

    def first_rows(self, rows):
        """The same case, cut off."""
        levels = []
        for level in self.levels:
            offsets = np.unique(np.minimum(level.offsets, rows))
            levels.append(Level(level.name, offsets, level.reduce, level.keep))
            rows = len(offsets) - 1
        first = levels[0].rows
        cut = lambda array: None if array is None else array[:first]
        return Case(cut(self.values), cut(self.ids), self.table, levels)


def load(folder):
    with open(os.path.join(folder, "spec.json")) as file:
        spec = json.load(file)
    array = lambda name: np.load(os.path.join(folder, f"{name}.npy"))
    leaves = spec["leaves"]
    lookup = "ids" in leaves
    levels = []
    for level in spec["levels"]:
        reduce = level["reduce"]
        if isinstance(reduce, list):
            (reduce,) = reduce
        offsets = array(f"{level['name']}.offsets")
        levels.append(Level(level["name"], offsets, reduce, level.get("keep", False)))
    levels[-1].keep = True
    if lookup:
        return Case(None, array(leaves["ids"]["name"]), array(leaves["table"]["name"]), levels)
    return Case(array(leaves["name"]), None, None, levels)


def fold_in_f64(rows, level, ids=None):
    """A level in f64: rows of any float type, or looked up by ids, a few thousand at a time."""
    add = level.reduce in ("sum", "mean")
    function = np.add if add else np.maximum if level.reduce == "max" else np.minimum
    count, step = len(level.lengths), 1 << 14
    out = np.empty((count, rows.shape[1]))
    take = lambda low, high: (rows[low:high] if ids is None else rows[ids[low:high]]).astype(np.float64)
    first = 0
    while first < count:
        start = level.offsets[first]
        last = max(first + 1, int(np.searchsorted(level.offsets, start + step, side="right")) - 1)
        if last == first + 1:
            pieces = [function.reduce(take(low, min(low + step, level.offsets[last])), axis=0) for low in range(start, level.offsets[last], step)]
            out[first] = function.reduce(np.stack(pieces), axis=0)
        else:
            out[first:last] = function.reduceat(take(start, level.offsets[last]), level.offsets[first:last] - start, axis=0)
        first = last
    if level.reduce == "mean":
        out /= level.lengths[:, None]
    return out


def exact_levels(case):
    """Every kept level in f64, and how large the sum of its magnitudes is expected to be: values are uniform in [-1, 1)."""
    kept = []
    rows, ids = (case.values, None) if case.ids is None else (case.table, case.ids)
    leaves = np.ones(case.rows)
    for level in case.levels:
        rows, ids = fold_in_f64(rows, level, ids), None
        leaves = np.add.reduceat(leaves, level.offsets[:-1])
        if level.keep:
            kept.append((rows, 0.5 * leaves[:, None] if level.reduce == "sum" else 0.5))
    return kept


def largest_error(found, wanted):
    worst = 0.0
    if len(found) != len(wanted):
        return float("inf")
    for array, (truth, scale) in zip(found, wanted):
        if array.shape != truth.shape:
            return float("inf")
        for low in range(0, len(truth), 1 << 14):
            part = slice(low, low + (1 << 14))
            of = scale if isinstance(scale, float) else scale[part]
            error = np.abs(array[part].astype(np.float64) - truth[part]) / of
            # A NaN is further off than anything.
            worst = max(worst, float(np.where(np.isnan(error), np.inf, error).max(initial=0.0)))
    return worst


def status(field):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return None


def memory_of(run):
    """By how much the process grows at most during a run, where the system says so."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS:")
        kept = run()
        grown = status("VmHWM:") - before
    except (OSError, TypeError):
        return None
    del kept
    return max(0, grown)


def seconds_of(run):
    start = time.perf_counter()
    kept = run()
    took = time.perf_counter() - start
    del kept
    return took


class Entry:
    """A contender of this process, with what is known of it."""

    def __init__(self, name, case, cap):
        self.name, self.contender, self.repeat = name, None, 1
        self.facts = {"status": "measured"}
        kind, modules, threads = known.CONTENDERS[name]
        self.facts["threads"] = threads
        try:
            self.facts["versions"] = known.versions([name])
            small = case.first_rows(max(1, case.rows // PILOT))
            if case.rows > 1 << 18 and self.is_hopeless(kind, small, case.rows / small.rows, cap):
                return
            contender = kind(case)
            self.check(contender, case.exact())
            grown = memory_of(contender.run)
            outputs = sum(len(level.lengths) * case.features * 4 for level in case.levels if level.keep)
            if grown is not None:
                self.facts["grown_bytes"] = grown
                self.facts["extra_bytes"] = grown if contender.reuses_outputs else max(0, grown - outputs)
            warm = seconds_of(contender.run)
            if warm < SHORTEST:
                self.repeat = max(1, int(SHORTEST / max(warm, 1e-7)) + 1)
            self.contender = contender
        except known.CannotDo as reason:
            self.facts.update(status="cannot", why=str(reason))
        except ImportError as reason:
            self.facts.update(status="not installed", why=str(reason))
        except (RuntimeError, ValueError, TypeError, NotImplementedError, MemoryError) as reason:
            self.facts.update(status="failed", why=str(reason).strip().splitlines()[0][:200] if str(reason).strip() else type(reason).__name__)

    def check(self, contender, wanted):
        kept = contender.run()
        error = largest_error(contender.arrays(kept), wanted)
        self.facts["error"] = min(error, sys.float_info.max)
        if not error <= TOLERANCE:
            raise ValueError(f"wrong result: {error:.1e} of the magnitude from f64")

    def is_hopeless(self, kind, small, times, cap):
        """Whether a run would take longer than the cap, as far as a small part of it tells."""
        pilot = kind(small)
        self.check(pilot, small.exact())
        pilot_seconds = min(seconds_of(pilot.run) for _ in range(2))
        if pilot_seconds * times <= cap:
            return False
        self.facts.update(status="pilot", pilot_rows=small.rows, pilot_seconds=pilot_seconds, estimated_seconds=pilot_seconds * times)
        return True

    def sample(self):
        if self.repeat > 1:
            seconds_of(self.contender.run)
        start = time.perf_counter()
        for _ in range(self.repeat):
            kept = self.contender.run()
        took = time.perf_counter() - start
        del kept
        return took / self.repeat


def limit_threads(names, threads):
    modules = {module for name in names for module in known.CONTENDERS[name][1]}
    try:
        if "torch" in modules:
            import torch

            torch.set_num_threads(threads)
        if "numba" in modules:
            import numba

            numba.set_num_threads(threads)
    except ImportError:
        # Its contenders will say so themselves.
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--contenders", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cap", type=float, required=True)
    arguments = parser.parse_args()
    names = arguments.contenders.split(",")
    # Prototypes and deprecations are remarked upon at every import.
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    limit_threads(names, arguments.threads)
    case = load(arguments.folder)
    entries = []
    for name in names:
        entries.append(Entry(name, case, arguments.cap))
        gc.collect()
    case.forget_exact()
    gc.collect()
    say = lambda value: print(json.dumps(value), flush=True)
    say({"event": "ready", "contenders": {entry.name: entry.facts for entry in entries}})
    running = [entry for entry in entries if entry.contender is not None]
    order = random.Random(1)
    for _ in sys.stdin:
        order.shuffle(running)
        say({"event": "round", "seconds": {entry.name: entry.sample() for entry in running}})


if __name__ == "__main__":
    main()
