#!/usr/bin/env python3
"""What others take on a GPU for the segments of a folder that `levelfold bench --export` wrote: sums of all its levels.

    gpu_peers.py FOLDER --features 256 --dtype f32

Prints a JSON line for each contender, as soon as it is measured: its median seconds by the device's own clock, and the largest error relative to the sum of
the magnitudes, against a fold in f64. Rows are uniform in [-1, 1) and lie on the device; everything that can be prepared is prepared before. Needs torch, and has Triton
where torch brings it. `--device cpu` is a dry run: whether the contenders run and are right, and nothing about their speed. `backends/cuda/gpu/gpu.py` runs it beside Levelfold.
"""

import argparse
import json
import os
import statistics
import struct
import sys
import time
from array import array

#: A result further from f64 than this is wrong, and not merely rounded.
TOLERANCE = {"f32": 1e-3, "bf16": 1e-2}
#: Rows that one program of the Triton kernel takes; longer segments are cut, and their parts summed in a second launch.
PART = 512


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


class CannotDo(Exception):
    """The library has no way to do this, and why."""


class Level:
    def __init__(self, offsets, device):
        self.offsets = torch.frombuffer(offsets, dtype=torch.int64).to(device)
        self.lengths = self.offsets.diff()
        self.count = len(self.lengths)
        self.rows = int(self.offsets[-1])
        self.longest = int(self.lengths.max())


def read_offsets(path):
    """The i64 numbers of an .npy file."""
    with open(path, "rb") as file:
        head = file.read(10)
        if head[:6] != b"\x93NUMPY":
            sys.exit(f"error: {path} is no .npy file")
        file.read(struct.unpack("<H", head[8:10])[0])
        numbers = array("q")
        numbers.frombytes(file.read())
    return numbers


# ------------------------------------------------------------------------------------------------------------- contenders


class Contender:
    def __init__(self, rows, levels):
        self.rows, self.levels = rows, levels
        self.prepare()

    def prepare(self):
        pass

    def fold(self, index, rows):
        """The rows of level `index` from those below."""
        raise NotImplementedError

    def run(self):
        kept = []
        rows = self.rows
        for index in range(len(self.levels)):
            rows = self.fold(index, rows)
            kept.append(rows)
        return kept


class Copy(Contender):
    """No fold at all: the rows, copied inside of the device. The ceiling."""

    def prepare(self):
        self.to = torch.empty_like(self.rows)

    def run(self):
        self.to.copy_(self.rows)
        return []


class SegmentReduce(Contender):
    def fold(self, index, rows):
        return torch.segment_reduce(rows, "sum", offsets=self.levels[index].offsets, axis=0, unsafe=True)


class EmbeddingBag(Contender):
    """Row i looks up row i."""

    def prepare(self):
        self.ids = [torch.arange(level.rows, dtype=torch.int32, device=self.rows.device) for level in self.levels]
        self.offsets = [level.offsets.to(torch.int32) for level in self.levels]

    def fold(self, index, rows):
        return torch.nn.functional.embedding_bag(self.ids[index], rows, self.offsets[index], mode="sum", include_last_offset=True)


class Nested(Contender):
    """A nested tensor of the jagged layout, its longest length given; made anew on each level, as it has to be."""

    def fold(self, index, rows):
        level = self.levels[index]
        if level.count * level.longest * rows.shape[1] * 4 > 2**35:
            raise CannotDo("it pads each segment to the longest: more than 32 GiB")
        return torch.nested.nested_tensor_from_jagged(rows, level.offsets, min_seqlen=0, max_seqlen=level.longest).sum(dim=1)


class IndexAdd(Contender):
    """Atomic additions; not the same bits twice."""

    def prepare(self):
        device = self.rows.device
        self.ids = [torch.repeat_interleave(torch.arange(level.count, device=device), level.lengths) for level in self.levels]

    def fold(self, index, rows):
        return torch.zeros(self.levels[index].count, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, self.ids[index], rows)


if triton:

    @triton.jit
    def sum_parts(rows, starts, ends, out, features, TILE: tl.constexpr, DEEP: tl.constexpr):
        part = tl.program_id(0)
        columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
        inside = columns < features
        at = tl.load(starts + part)
        end = tl.load(ends + part)
        total = tl.zeros((TILE,), dtype=tl.float32)
        while at < end:
            deep = at + tl.arange(0, DEEP)
            mask = (deep < end)[:, None] & inside[None, :]
            block = tl.load(rows + deep[:, None] * features + columns[None, :], mask=mask, other=0.0)
            total += tl.sum(block.to(tl.float32), axis=0)
            at += DEEP
        tl.store(out + part.to(tl.int64) * features + columns, total.to(out.dtype.element_ty), mask=inside)


class Triton(Contender):
    """One program a part of a segment and tile of columns, f32 accumulators, 16 bytes a lane; long segments are cut into parts, planned before."""

    tile = 128
    warps = 1

    def prepare(self):
        if not triton:
            raise CannotDo("there is no Triton here")
        self.parts = []
        for level in self.levels:
            count = (level.lengths + (PART - 1)) // PART
            first = torch.cat([count.new_zeros(1), count.cumsum(0)])
            of = torch.repeat_interleave(torch.arange(level.count, device=count.device), count)
            starts = level.offsets[of] + (torch.arange(len(of), device=of.device) - first[of]) * PART
            ends = torch.minimum(starts + PART, level.offsets[of + 1])
            cut = len(of) != level.count or bool((count != 1).any())
            self.parts.append((starts, ends, first, cut))
        self.tune()

    def tune(self):
        if self.rows.device.type != "cuda":
            return
        best = None
        for tile in (64, 128, 256, 512):
            for warps in (1, 2, 4):
                self.tile, self.warps = tile, warps
                self.run()
                seconds = statistics.median(once(self.run, self.rows.device) for _ in range(3))
                best = min(best or (seconds, tile, warps), (seconds, tile, warps))
        _, self.tile, self.warps = best

    def launch(self, rows, starts, ends, dtype):
        features = rows.shape[1]
        out = torch.empty(len(starts), features, dtype=dtype, device=rows.device)
        tile = min(self.tile, 1 << (features - 1).bit_length())
        if len(starts):
            sum_parts[(len(starts), -(-features // tile))](rows, starts, ends, out, features, TILE=tile, DEEP=4, num_warps=self.warps)
        return out

    def fold(self, index, rows):
        starts, ends, first, cut = self.parts[index]
        if not cut:
            return self.launch(rows, starts, ends, rows.dtype)
        return self.launch(self.launch(rows, starts, ends, torch.float32), first[:-1], first[1:], rows.dtype)



CONTENDERS = {"copy": Copy, "triton": Triton, "embedding-bag": EmbeddingBag, "segment-reduce": SegmentReduce, "nested": Nested, "index-add": IndexAdd}

# ---------------------------------------------------------------------------------------------------------------- measuring


def once(run, device):
    """Seconds of one run, by the device's clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def exact_levels(rows, levels):
    """Sums in f64, and of the magnitudes, some columns at a time."""
    found = [[] for _ in levels]
    for columns in rows.split(32, dim=1):
        sums, magnitudes = columns.double(), columns.double().abs()
        for level, of in zip(levels, found):
            ids = torch.repeat_interleave(torch.arange(level.count, device=rows.device), level.lengths)
            empty = torch.zeros(level.count, columns.shape[1], dtype=torch.float64, device=rows.device)
            sums, magnitudes = empty.index_add(0, ids, sums), empty.index_add(0, ids, magnitudes)
            of.append((sums, magnitudes))
    return [tuple(torch.cat(parts, dim=1) for parts in zip(*of)) for of in found]


def error_of(kept, exact):
    worst = 0.0
    for rows, (sums, magnitudes) in zip(kept, exact):
        if rows.shape != sums.shape:
            return float("inf")
        error = float(((rows.double() - sums).abs() / magnitudes.clamp(min=1e-30)).max())
        # A NaN compares with nothing.
        worst = worst if error <= worst else error
    return worst


def measure(contender, rows, levels, exact, arguments, until):
    made = contender(rows, levels)
    kept = made.run()
    facts = {}
    if kept:
        facts["error"] = error_of(kept, exact)
        if not facts["error"] <= TOLERANCE[arguments.dtype]:
            return facts | {"status": "wrong"}
    del kept
    samples = []
    # One sample is taken, however long the first run was.
    while len(samples) < arguments.rounds and (not samples or time.monotonic() < until):
        samples.append(once(made.run, rows.device))
    facts |= {"status": "measured", "seconds": statistics.median(samples), "slowest": max(samples), "fastest": min(samples), "samples": len(samples)}
    if isinstance(made, Triton):
        facts["why"] = f"tiles of {made.tile} columns, {made.warps} warps"
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--features", type=int, required=True)
    parser.add_argument("--dtype", choices=TOLERANCE, default="f32")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.contenders.split(",") if name not in CONTENDERS]
    if unknown:
        parser.error(f"there is no contender {unknown[0]}")
    try:
        with open(os.path.join(arguments.folder, "spec.json")) as file:
            spec = json.load(file)
    except OSError as error:
        sys.exit(f"error: {arguments.folder} is no folder of `levelfold bench --export`: {error}")
    globals()["torch"] = __import__("torch")
    device = torch.device(arguments.device)
    levels = [Level(read_offsets(os.path.join(arguments.folder, f"{level['name']}.offsets.npy")), device) for level in spec["levels"]]
    torch.manual_seed(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    rows = torch.rand(levels[0].rows, arguments.features, device=device).mul_(2).sub_(1).to(dtype)
    exact = exact_levels(rows, levels)
    wanted = arguments.contenders.split(",")
    wrong = 0
    end = time.monotonic() + arguments.seconds
    for number, name in enumerate(wanted):
        # Each has an equal part of what is left.
        now = time.monotonic()
        try:
            facts = measure(CONTENDERS[name], rows, levels, exact, arguments, now + (end - now) / (len(wanted) - number))
        except CannotDo as reason:
            facts = {"status": "cannot", "why": str(reason)}
        except Exception as error:  # whatever a library says, the others are measured all the same
            facts = {"status": "failed", "why": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
        wrong += facts["status"] == "wrong"
        print(json.dumps({"contender": name} | facts), flush=True)
    return 1 if wrong == len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
