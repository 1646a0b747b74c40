"""What Levelfold is measured against: the same folds by other libraries, each as its users would write it.

A contender is made for one case and folds its levels one after the other. `run()` gives the kept levels, lowest first. Whatever can be
prepared before the first run is prepared when the contender is made: offsets, segment ids, weights, index types, compiled code.
"""

import importlib


class CannotDo(Exception):
    """The library has no way to do this, and why."""


class Contender:
    """One library over one case."""

    #: Whether results go into arrays that are made once, as Levelfold's do.
    reuses_outputs = False

    def __init__(self, case):
        self.case = case
        self.prepare()

    def prepare(self):
        pass

    def leaves(self):
        """The rows of level 0."""
        raise NotImplementedError

    def fold(self, index, rows):
        """The rows of level `index`, from those of the level below."""
        raise NotImplementedError

    def run(self):
        kept = []
        rows = self.leaves()
        for index, level in enumerate(self.case.levels):
            rows = self.fold(index, rows)
            if level.keep:
                kept.append(rows)
        return self.finish(kept)

    def finish(self, kept):
        return kept

    def arrays(self, kept):
        """The results as NumPy arrays."""
        return kept


class NumpyReduceat(Contender):
    """numpy.ufunc.reduceat over offsets; means are divided, looked-up rows are gathered first."""

    def prepare(self):
        import numpy as np

        self.functions = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum}

    def leaves(self):
        case = self.case
        return case.values if case.ids is None else case.table[case.ids]

    def fold(self, index, rows):
        level = self.case.levels[index]
        out = self.functions[level.reduce].reduceat(rows, level.offsets[:-1], axis=0)
        if level.reduce == "mean":
            out /= level.lengths[:, None].astype(out.dtype)
        return out


class ScipyCsr(Contender):
    """A product with a sparse matrix of a row a segment; a lookup is its columns."""

    def prepare(self):
        import numpy as np
        import scipy.sparse

        self.matrices = []
        for index, level in enumerate(self.case.levels):
            if level.reduce not in ("sum", "mean"):
                raise CannotDo(f"a product of matrices has no {level.reduce}")
            lookup = index == 0 and self.case.ids is not None
            columns = self.case.ids.astype(np.int32) if lookup else np.arange(level.rows, dtype=np.int32)
            weights = np.ones(level.rows, dtype=np.float32)
            if level.reduce == "mean":
                weights = np.repeat((1.0 / level.lengths).astype(np.float32), level.lengths)
            width = len(self.case.table) if lookup else level.rows
            matrix = scipy.sparse.csr_matrix((weights, columns, level.offsets.astype(np.int32)), shape=(len(level.lengths), width))
            self.matrices.append(matrix)

    def leaves(self):
        return self.case.values if self.case.ids is None else self.case.table

    def fold(self, index, rows):
        return self.matrices[index] @ rows


class JaxSegmentSum(Contender):
    """jax.ops.segment_sum and segment_max, all levels in one jitted function, ids said to be sorted."""

    def prepare(self):
        import jax
        import jax.numpy as jnp
        import numpy as np

        case = self.case
        ids = [jnp.asarray(np.repeat(np.arange(len(level.lengths), dtype=np.int32), level.lengths)) for level in case.levels]
        lengths = [jnp.asarray(level.lengths.astype(np.float32))[:, None] for level in case.levels]
        functions = {"sum": jax.ops.segment_sum, "mean": jax.ops.segment_sum, "max": jax.ops.segment_max, "min": jax.ops.segment_min}
        self.data = [jnp.asarray(case.values)] if case.ids is None else [jnp.asarray(case.table), jnp.asarray(case.ids.astype(np.int32))]

        def program(data, ids, lengths):
            rows = data[0] if len(data) == 1 else data[0][data[1]]
            kept = []
            for index, level in enumerate(case.levels):
                count = len(level.lengths)
                rows = functions[level.reduce](rows, ids[index], num_segments=count, indices_are_sorted=True)
                if level.reduce == "mean":
                    rows = rows / lengths[index]
                if level.keep:
                    kept.append(rows)
            return kept

        self.program, self.ids, self.lengths = jax.jit(program), ids, lengths

    def run(self):
        return [rows.block_until_ready() for rows in self.program(self.data, self.ids, self.lengths)]

    def arrays(self, kept):
        import numpy as np

        return [np.asarray(rows) for rows in kept]


class NumbaLoop(Contender):
    """A compiled loop over segments, rows and features, segments side by side on all threads, into arrays that are made once."""

    reuses_outputs = True

    def prepare(self):
        import numba
        import numpy as np

        def loop(reduce, lookup):
            compiled = numba.njit(parallel=True, fastmath=True, nogil=True)

            @compiled
            def add(values, ids, offsets, out, mean):
                for segment in numba.prange(len(offsets) - 1):
                    start, end = offsets[segment], offsets[segment + 1]
                    row = out[segment]
                    row[:] = values[ids[start]] if lookup else values[start]
                    for index in range(start + 1, end):
                        source = values[ids[index]] if lookup else values[index]
                        for feature in range(row.shape[0]):
                            row[feature] += source[feature]
                    if mean:
                        share = np.float32(1.0 / (end - start))
                        for feature in range(row.shape[0]):
                            row[feature] *= share

            @compiled
            def extreme(values, ids, offsets, out, mean):
                for segment in numba.prange(len(offsets) - 1):
                    start, end = offsets[segment], offsets[segment + 1]
                    row = out[segment]
                    row[:] = values[ids[start]] if lookup else values[start]
                    for index in range(start + 1, end):
                        source = values[ids[index]] if lookup else values[index]
                        for feature in range(row.shape[0]):
                            row[feature] = max(row[feature], source[feature])

            if reduce in ("sum", "mean"):
                return add
            if reduce == "max":
                return extreme
            raise CannotDo(f"no loop was written for {reduce}")

        case = self.case
        self.loops = [loop(level.reduce, index == 0 and case.ids is not None) for index, level in enumerate(case.levels)]
        self.outs = [np.zeros((len(level.lengths), case.features), dtype=np.float32) for level in case.levels]
        self.ids = np.zeros(1, dtype=np.uint8) if case.ids is None else case.ids

    def leaves(self):
        return self.case.values if self.case.ids is None else self.case.table

    def fold(self, index, rows):
        level = self.case.levels[index]
        self.loops[index](rows, self.ids, level.offsets, self.outs[index], level.reduce == "mean")
        return self.outs[index]


class Torch(Contender):
    """What the contenders of PyTorch share."""

    def prepare(self):
        import torch

        self.torch = torch
        case = self.case
        self.values = torch.from_numpy(case.values if case.ids is None else case.table)
        self.ids = None if case.ids is None else torch.from_numpy(case.ids).long()
        self.offsets = [torch.from_numpy(level.offsets) for level in case.levels]
        self.lengths = [torch.from_numpy(level.lengths) for level in case.levels]

    def leaves(self):
        return self.values if self.ids is None else self.values[self.ids]

    def run(self):
        with self.torch.no_grad():
            return super().run()

    def arrays(self, kept):
        return [rows.numpy() for rows in kept]


class SegmentReduce(Torch):
    """torch.segment_reduce over offsets."""

    def fold(self, index, rows):
        level = self.case.levels[index]
        return self.torch.segment_reduce(rows, level.reduce, offsets=self.offsets[index], axis=0)


class EmbeddingBag(Torch):
    """torch.nn.functional.embedding_bag; where nothing is looked up, row i looks up row i."""

    def prepare(self):
        super().prepare()
        self.indices = [self.torch.arange(level.rows) for level in self.case.levels]
        if self.ids is not None:
            self.indices[0] = self.ids

    def leaves(self):
        return self.values

    def fold(self, index, rows):
        level = self.case.levels[index]
        return self.torch.nn.functional.embedding_bag(
            self.indices[index], rows, self.offsets[index], mode=level.reduce, include_last_offset=True
        )


class Jagged(Torch):
    """A nested tensor of the jagged layout, reduced along its ragged axis; the longest length is given."""

    def prepare(self):
        super().prepare()
        for level in self.case.levels:
            if level.reduce not in ("sum", "mean"):
                raise CannotDo(f"a jagged tensor has no {level.reduce} along its ragged axis")
            padded = len(level.lengths) * level.longest * self.case.features * 4
            if padded > 4 << 30:
                raise CannotDo(f"it pads to the longest segment: {padded / 2**30:.0f} GiB")

    def fold(self, index, rows):
        level = self.case.levels[index]
        nested = self.torch.nested.nested_tensor_from_jagged(rows, self.offsets[index], min_seqlen=1, max_seqlen=level.longest)
        return nested.sum(dim=1) if level.reduce == "sum" else nested.mean(dim=1)


class Published(Torch):
    """The published module, step by step: nested tensor, transpose, contiguous copy, reduce, unbind and stack, squeeze, slices."""

    def prepare(self):
        super().prepare()
        for level in self.case.levels:
            if level.reduce not in ("sum", "mean"):
                raise CannotDo(f"a nested tensor has no {level.reduce} over its last axis")
        self.cuts = [level.lengths.tolist() for level in self.case.levels]

    def fold(self, index, rows):
        level = self.case.levels[index]
        slices = list(self.torch.split(rows, self.cuts[index]))
        nested = self.torch.nested.as_nested_tensor(slices, layout=self.torch.strided)
        turned = nested.transpose(1, 2).contiguous()
        reduced = turned.sum(dim=-1, keepdim=True)
        if level.reduce == "mean":
            # Nested tensors have no mean over an axis, so each piece is divided by its own length.
            pieces = [piece / length for piece, length in zip(reduced.unbind(), self.cuts[index])]
        else:
            pieces = list(reduced.unbind())
        return self.torch.stack(pieces).squeeze(-1)


#: Name on the command line: class, modules that it needs, threads that it uses.
CONTENDERS = {
    "published": (Published, ["torch"], "all"),
    "segment-reduce": (SegmentReduce, ["torch"], "all"),
    "embedding-bag": (EmbeddingBag, ["torch"], "all"),
    "embedding-bag-thp": (EmbeddingBag, ["torch"], "all"),
    "jagged": (Jagged, ["torch"], "all"),
    "reduceat": (NumpyReduceat, ["numpy"], "one"),
    "csr": (ScipyCsr, ["scipy"], "one"),
    "jax": (JaxSegmentSum, ["jax"], "all"),
    "numba": (NumbaLoop, ["numba"], "all"),
}

#: Contenders that need a process of their own, and the environment that makes them what they are.
ENVIRONMENTS = {"embedding-bag-thp": {"THP_MEM_ALLOC_ENABLE": "1"}}


def versions(names):
    """The versions of the modules behind these contenders."""
    found = {}
    for name in names:
        for module in CONTENDERS[name][1]:
            found[module] = importlib.import_module(module).__version__
    return found
