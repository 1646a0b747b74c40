// ---------------------------------------------------------------------------------------------------------------- loads

#ifndef LF_SHIM
// BYTES from global to shared memory, without a stop on the way: they are there after arrived().
template <int BYTES> LF_DEVICE void bring(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
  const u32 at = (u32)__cvta_generic_to_shared(to);
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  } else if constexpr (BYTES >= 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(BYTES) : "memory");
  } else {
    *(typename Word<BYTES>::Of*)to = *(const typename Word<BYTES>::Of*)from;
  }
#else
  *(typename Word<BYTES>::Of*)to = *(const typename Word<BYTES>::Of*)from;
#endif
}

// Ends a batch of bring().
LF_DEVICE void sent() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All batches but the newest LATER are there.
template <int LATER> LF_DEVICE void arrived() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}
#endif

LF_DEVICE Index smaller(Index a, Index b) { return a < b ? a : b; }

// The rows of a run in order, each thread its own bytes of them.
struct Rows {
  Index at, limit;            // positions: the next one, and where the run ends
  Index segment, end, shift;  // of stage 0; without ranges nothing ever ends
  const u8* first;            // the thread's first column
#if LF_SOURCE == 1
  Index looked_up[BATCH];     // a batch ahead, so that ids are not waited for
  u32 count;
#endif

  LF_DEVICE void start(const FoldArgs& args, Self self, const Index* run) {
    at = run[0];
    limit = run[2 + LF_STAGES];
    segment = run[2];
    end = ~(Index)0;
    shift = 0;
    first = args.values + (i64)self.column * args.column_stride;
    if (at < limit && (LF_SOURCE == PACKED || args.shifts)) enter(args, self);
#if LF_SOURCE == 1
    look_up(args, self);
#endif
  }

  LF_DEVICE void enter(const FoldArgs& args, Self self) {
    const Index* of = offsets(args, 0);
    while ((end = of[segment + 1]) == at) ++segment;
    if (LF_SOURCE == PACKED) {
      // Element (i, f) of the segment is at start * features + f * length + i, and i = position - start.
      const Index start = of[segment];
      const i64 from = (i64)start * args.features + (i64)self.column * (end - start) - (i64)start;
      first = args.values + from * (i64)sizeof(Raw);
    } else {
      shift = shifts(args)[segment];
    }
  }

  // The row of the next position.
  LF_DEVICE Index next(const FoldArgs& args, Self self) {
    if (at == end) enter(args, self);
    return (Index)(at++ + shift);
  }

#if LF_SOURCE == 1
  LF_DEVICE void look_up(const FoldArgs& args, Self self) {
    count = 0;
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      if (at < limit) {
        const Index row = next(args, self);
        looked_up[j] = (Index)load_id(args.ids + (i64)row * args.id_stride, args.id_bytes);
        count = j + 1;
      }
    }
  }
#endif

  // Sends for the next batch.
  LF_DEVICE void fetch(const FoldArgs& args, Self self, u8* ring) {
#if LF_BYTES == 2
    u16 raw[BATCH];  // nothing brings two bytes by itself: all are under way before the first is put down
#endif
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
#if LF_SOURCE == 1
      if ((u32)j < count) {
        const u8* from = first + (i64)looked_up[j] * args.row_stride;
#else
      if (at < limit) {
        const Index row = next(args, self);
        const u8* from = first + (i64)row * (LF_SOURCE == PACKED ? (i64)sizeof(Raw) : args.row_stride);
#endif
#if LF_BYTES == 2
        raw[j] = *(const u16*)from;
#else
        bring<LF_BYTES>(ring + j * THREADS * LF_BYTES, from);
#endif
      }
    }
#if LF_BYTES == 2
#pragma unroll
    for (int j = 0; j < BATCH; ++j) *(u16*)(ring + j * THREADS * LF_BYTES) = raw[j];
#endif
#if LF_SOURCE == 1
    look_up(args, self);
#endif
  }
};

#if LF_TILE
// A warp brings the rows of its groups, one group after the other: lanes go along whichever dimension is dense.
LF_DEVICE void fetch_tiles(const FoldArgs& args, u32 groups, u32 lane, Index at, Index limit, u32 column, u8* tile) {
  for (u32 group = 0; group < groups; ++group) {
    const u32 leader = group * args.lanes;
    const Index from = __shfl_sync(0xffffffffu, at, leader);
    const Index to = __shfl_sync(0xffffffffu, limit, leader);
    const u32 first = __shfl_sync(0xffffffffu, column, leader);
    const u32 rows = from < to ? (u32)smaller(to - from, BATCH) : 0;
    const u32 columns = args.features - first < args.lanes ? args.features - first : args.lanes;
    const bool along_rows = args.row_stride == (i64)sizeof(Raw) && args.features > 1;
    const u32 inner = along_rows ? (u32)BATCH : columns;
    const u32 count = rows ? BATCH * columns : 0;
    const u8* base = args.values + (i64)from * args.row_stride + (i64)first * args.column_stride;
    // Element lane, lane + 32, …, as (outer, inner), without dividing again.
    u32 o = lane / inner, i = lane % inner;
    const u32 step_o = 32 / inner, step_i = 32 % inner;
    for (u32 e = lane; e < count; e += 32) {
      const u32 r = along_rows ? i : o, c = along_rows ? o : i;
      if (r < rows) bring<LF_BYTES>(tile + (r * TILE_PITCH + leader + c) * sizeof(Raw), base + (i64)r * args.row_stride + (i64)c * args.column_stride);
      o += step_o;
      i += step_i;
      if (i >= inner) {
        i -= inner;
        ++o;
      }
    }
  }
}
#endif

// A row that has arrived, after the operations before the fold, in the accumulator's type.
LF_DEVICE void take_row(const u8* ring, Level<0>::Acc (&x)[VECTOR]) {
  union Packed {
    typename Word<LF_BYTES>::Of word;
    Raw elements[VECTOR];
  };
  Packed packed;
  packed.word = *(const typename Word<LF_BYTES>::Of*)ring;
#pragma unroll
  for (int c = 0; c < VECTOR; ++c) x[c] = all_operations<Before<0>, LF_VALUE>(Type<LF_VALUE>::widen(packed.elements[c]));
}
