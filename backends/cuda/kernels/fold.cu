// Folds rows into segments, stage after stage, each row read once. Specialised by LF_VALUE, LF_SOURCE, LF_TILE, LF_BYTES, LF_INDEX, LF_STAGES and
// LF_STAGE_LIST: see src/spec.rs, which also says how work is cut into runs.
//
// Load x walk x fold. A group of `lanes` threads takes one run and one slab of columns; a thread owns LF_BYTES of each row. Rows arrive in a ring
// in shared memory, several batches ahead: no registers are held for what is in flight. Then the walk takes what has arrived, row by row, to the
// end of the block of 32 rows, and hands what ends on to the stage above. Threads of a group never exchange numbers, so nothing depends on how
// groups lie in warps; only tiles are brought by a warp together.

#if LF_INDEX == 64
typedef u64 Index;
#else
typedef u32 Index;
#endif

constexpr int BLOCK_ROWS = 32;
constexpr int THREADS = 128;
enum : int { ROWS, GATHER, PACKED };

struct ReductionSpec {
  int reducer, weighted, dtype;
};

struct StageSpec {
  int feed, depth, count;
  ReductionSpec reductions[MOST_REDUCTIONS];
};

constexpr StageSpec STAGES[LF_STAGES] = {LF_STAGE_LIST};

constexpr int first_reduction(int stage) {
  int first = 0;
  for (int below = 0; below < stage; ++below) first += STAGES[below].count;
  return first;
}

constexpr int TOP = LF_STAGES - 1;
typedef Type<LF_VALUE>::Raw Raw;
constexpr int VECTOR = LF_BYTES / (int)sizeof(Raw);

// Rows of a batch, and how many batches the ring holds. src/spec.rs counts the bytes.
constexpr int BATCH = LF_TILE ? (sizeof(Raw) == 8 ? 16 : 32) : LF_BYTES == 16 ? 4 : 8;
constexpr int BATCHES = LF_TILE ? 2 : LF_BYTES == 2 ? 1 : 4;
#if LF_TILE
constexpr int TILE_PITCH = 33;
#endif

static_assert(sizeof(FoldArgs) == LF_FOLD_BYTES, "the host has other arguments");

LF_DEVICE const Index* offsets(const FoldArgs& args, int stage) { return (const Index*)args.stages[stage].offsets; }
LF_DEVICE const Index* shifts(const FoldArgs& args) { return (const Index*)args.shifts; }

// --------------------------------------------------------------------------------------------------------------- lists

template <int N> struct Number {
  static constexpr int value = N;
};

// f(Number<0>) to f(Number<COUNT - 1>).
template <int COUNT, int N = 0, class F> LF_DEVICE void each(F f) {
  if constexpr (N < COUNT) {
    f(Number<N>{});
    each<COUNT, N + 1>(f);
  }
}

// The type that a stage folds.
constexpr int input_type(int stage) { return stage == 0 ? LF_VALUE : STAGES[stage - 1].reductions[STAGES[stage].feed].dtype; }

constexpr bool weighted_mean(int stage, int reduction) {
  return STAGES[stage].reductions[reduction].reducer == MEAN && STAGES[stage].reductions[reduction].weighted;
}

// What a thread knows of itself.
struct Self {
  u32 column;  // its first
  bool on;     // whether it has any
};

// ------------------------------------------------------------------------------------------------------- pairs of blocks

// The blocks of one segment or piece: a binary counter, in which entry d holds a group of 2^d blocks where bit d of the count is set. Touched once
// in 32 rows, and indexed at run time: it lies in local memory. It is apart from the accumulators, so that these stay in registers.
template <int STAGE> struct Pairs {
  double groups[STAGES[STAGE].count][STAGES[STAGE].depth + 1][VECTOR];
  double weights[STAGES[STAGE].count][STAGES[STAGE].depth + 1];
};

template <int STAGE> struct AllPairs : AllPairs<STAGE + 1> {
  Pairs<STAGE> own;
};

template <> struct AllPairs<LF_STAGES> {};

template <int REDUCER, int WIDTH> LF_DEVICE void push_block(double (*groups)[WIDTH], u32 blocks, double (&value)[WIDTH]) {
  int d = 0;
  for (; blocks >> d & 1; ++d) {
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) value[c] = combine<REDUCER>(groups[d][c], value[c]);
  }
#pragma unroll
  for (int c = 0; c < WIDTH; ++c) groups[d][c] = value[c];
}

// What is left, from the newest to the oldest.
template <int REDUCER, int WIDTH> LF_DEVICE void fold_blocks(double (*groups)[WIDTH], u32 blocks, double (&value)[WIDTH]) {
  int d = 0;
  while (!(blocks >> d & 1)) ++d;
#pragma unroll
  for (int c = 0; c < WIDTH; ++c) value[c] = groups[d][c];
  for (++d; blocks >> d; ++d) {
    if (blocks >> d & 1) {
#pragma unroll
      for (int c = 0; c < WIDTH; ++c) value[c] = combine<REDUCER>(groups[d][c], value[c]);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- results

// Up to 16 bytes at once.
template <int BYTES> struct Word;
template <> struct Word<16> { typedef uint4 Of; };
template <> struct Word<8> { typedef uint2 Of; };
template <> struct Word<4> { typedef u32 Of; };
template <> struct Word<2> { typedef u16 Of; };

template <int TYPE> LF_DEVICE void store_row(const ReductionArgs& to, Self self, Index segment, const typename Type<TYPE>::Raw (&row)[VECTOR]) {
  typedef typename Type<TYPE>::Raw Out;
  if (!to.out || !self.on) return;
  u8* at = to.out + (i64)segment * to.out_row_stride + (i64)self.column * to.out_column_stride;
  if (VECTOR > 1 && to.vector_store) {
    constexpr int BYTES = VECTOR * (int)sizeof(Out) < 16 ? VECTOR * (int)sizeof(Out) : 16;
    constexpr int EACH = BYTES / (int)sizeof(Out);
    union Packed {
      Out elements[EACH];
      typename Word<BYTES>::Of word;
    };
#pragma unroll
    for (int first = 0; first < VECTOR; first += EACH) {
      Packed packed;
#pragma unroll
      for (int c = 0; c < EACH; ++c) packed.elements[c] = row[first + c];
      *(typename Word<BYTES>::Of*)(at + first * (int)sizeof(Out)) = packed.word;
    }
  } else {
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) *(Out*)(at + c * to.out_column_stride) = row[c];
  }
}

// --------------------------------------------------------------------------------------------------------------- stages

// What a stage hands to the next one: a row, in the next one's accumulator type.
template <int STAGE> struct FedTo {
  typename Type<input_type(STAGE < TOP ? STAGE + 1 : STAGE)>::Acc row[VECTOR];
};

template <int STAGE> struct Level;

// Above the topmost stage: the piece that comes next.
template <> struct Level<LF_STAGES> {
  u64 piece;
};

// A stage and those above it. The row that it takes next is `at`, in the segment [first, end); its block ends at `block_end`.
template <int STAGE> struct Level : Level<STAGE + 1> {
  typedef Level<STAGE + 1> Above;
  static constexpr int COUNT = STAGES[STAGE].count;
  static constexpr int FIRST = first_reduction(STAGE);
  static constexpr bool IS_TOP = STAGE == TOP;
  typedef typename Type<input_type(STAGE)>::Acc Acc;

  Acc acc[COUNT][VECTOR];
  Acc weight[COUNT];
  Index segment, first, end, block_end, at;
  Index stop;   // below the top: the first segment that is not this run's
  Index shift;  // at stage 0: from positions to rows
  u32 blocks;

  LF_DEVICE void start_block() {
    each<COUNT>([&](auto r) {
      constexpr int REDUCER = STAGES[STAGE].reductions[r.value].reducer;
#pragma unroll
      for (int c = 0; c < VECTOR; ++c) acc[r.value][c] = identity<REDUCER, Acc>();
      weight[r.value] = identity<SUM, Acc>();
    });
    block_end = end - at > BLOCK_ROWS ? at + BLOCK_ROWS : end;
  }

  LF_DEVICE void enter_segment(const FoldArgs& args) {
    first = offsets(args, STAGE)[segment];
    end = offsets(args, STAGE)[segment + 1];
    if (STAGE == 0) shift = args.shifts ? shifts(args)[segment] : 0;
  }

  // The top: the next segment that has rows. There is one, as there is a row.
  LF_DEVICE void next_segment(const FoldArgs& args) {
    do {
      ++segment;
      enter_segment(args);
    } while (end == at);
    start_block();
  }

  // Below the top: to the next segment of this run that has rows, filling those that have none.
  LF_DEVICE void skip_empty(const FoldArgs& args, Self self, AllPairs<0>& pairs) {
    for (; segment < stop; ++segment) {
      enter_segment(args);
      if (end != first) {
        start_block();
        return;
      }
      fill(args, self, pairs);
    }
  }

  LF_DEVICE void start(const FoldArgs& args, Self self, const Index* run, AllPairs<0>& pairs) {
    if constexpr (!IS_TOP) Above::start(args, self, run, pairs);
    segment = run[2 + STAGE];
    blocks = 0;
    if constexpr (IS_TOP) {
      enter_segment(args);
      at = STAGE == 0 ? run[0] : run[1 + STAGE];
      start_block();
    } else {
      stop = run[2 + LF_STAGES + 2 + STAGE];
      at = STAGE == 0 ? run[0] : run[1 + STAGE];
      skip_empty(args, self, pairs);
    }
  }

  // One more row. Who calls counts `at`.
  LF_DEVICE void push(const FoldArgs& args, const Acc (&x)[VECTOR]) {
    each<COUNT>([&](auto r) {
      constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[r.value];
      if constexpr (SPEC.weighted) {
        const ReductionArgs& of = args.reductions[FIRST + r.value];
        const Index row = STAGE == 0 ? (Index)(at + shift) : at;
        const Acc w = load_float<Acc>(of.weights + (i64)row * of.weight_stride, of.weight_type);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) acc[r.value][c] = combine<SPEC.reducer>(acc[r.value][c], w * x[c]);
        if constexpr (SPEC.reducer == MEAN) weight[r.value] = weight[r.value] + w;
      } else {
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) acc[r.value][c] = combine<SPEC.reducer>(acc[r.value][c], x[c]);
      }
    });
  }

  // A row from the stage below, rounded to its type.
  LF_DEVICE void take(const FoldArgs& args, Self self, AllPairs<0>& pairs, const Acc (&x)[VECTOR]) {
    if constexpr (IS_TOP) {
      if (at == end) next_segment(args);
    }
    push(args, x);
    ++at;
    if (at == block_end) close(args, self, pairs);
  }

  // What a reduction made of the current segment, before it is rounded.
  template <int R, class Wide> LF_DEVICE void emit(const FoldArgs& args, Self self, const Wide (&value)[VECTOR], FedTo<STAGE>& fed) {
    constexpr int OUT = STAGES[STAGE].reductions[R].dtype;
    typename Type<OUT>::Raw row[VECTOR];
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) row[c] = Type<OUT>::nearest(value[c]);
    store_row<OUT>(args.reductions[FIRST + R], self, segment, row);
    if constexpr (!IS_TOP) {
      if constexpr (STAGES[STAGE + 1].feed == R) {
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) fed.row[c] = Type<OUT>::widen(row[c]);
      }
    }
  }

  // The end of a block: of a piece, or of the segment, perhaps.
  LF_DEVICE void close(const FoldArgs& args, Self self, AllPairs<0>& pairs) {
    const bool last = at == end;
    const bool is_long = IS_TOP && end - first > (Index)BLOCK_ROWS * args.piece_blocks;
    FedTo<STAGE> fed;
    bool done = last;
    if (last && blocks == 0 && !is_long) {
      // One block is the segment: it stays in the accumulator's type.
      each<COUNT>([&](auto r) {
        constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[r.value];
        Acc value[VECTOR];
        const Acc by = SPEC.weighted ? weight[r.value] : (Acc)(end - first);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) value[c] = SPEC.reducer == MEAN ? acc[r.value][c] / by : acc[r.value][c];
        emit<r.value>(args, self, value, fed);
      });
    } else {
      Pairs<STAGE>& own = static_cast<AllPairs<STAGE>&>(pairs).own;
      const bool whole = last || (is_long && blocks + 1 == args.piece_blocks);
      each<COUNT>([&](auto r) {
        constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[r.value];
        double value[VECTOR];
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) value[c] = (double)acc[r.value][c];
        push_block<SPEC.reducer>(own.groups[r.value], blocks, value);
        double by[1] = {0.0};
        if constexpr (weighted_mean(STAGE, r.value)) {
          by[0] = (double)weight[r.value];
          push_block<SUM>((double(*)[1])own.weights[r.value], blocks, by);
        }
        if (whole) {
          fold_blocks<SPEC.reducer>(own.groups[r.value], blocks + 1, value);
          if constexpr (weighted_mean(STAGE, r.value)) fold_blocks<SUM>((double(*)[1])own.weights[r.value], blocks + 1, by);
          if (is_long) {
            put_piece<r.value>(args, self, value, by[0]);
          } else {
            if constexpr (SPEC.reducer == MEAN) {
              const double divisor = SPEC.weighted ? by[0] : (double)(end - first);
#pragma unroll
              for (int c = 0; c < VECTOR; ++c) value[c] = value[c] / divisor;
            }
            emit<r.value>(args, self, value, fed);
          }
        }
      });
      done = last && !is_long;
      blocks = whole ? 0 : blocks + 1;
      if (IS_TOP && is_long && whole) ++this->piece;
    }
    if constexpr (IS_TOP) {
      if (!last) start_block();
    } else {
      if (!done) {
        start_block();
      } else {
        Above::take(args, self, pairs, fed.row);
        ++segment;
        skip_empty(args, self, pairs);
      }
    }
  }

  template <int R> LF_DEVICE void put_piece(const FoldArgs& args, Self self, const double (&value)[VECTOR], double by) {
    if constexpr (IS_TOP) {
      const ReductionArgs& to = args.reductions[FIRST + R];
      if (!self.on) return;
#pragma unroll
      for (int c = 0; c < VECTOR; ++c) to.partials[this->piece * args.features + self.column + c] = value[c];
      if (weighted_mean(STAGE, R) && self.column == 0) to.weight_partials[this->piece] = by;
    }
  }

  // An empty segment below the top.
  LF_DEVICE void fill(const FoldArgs& args, Self self, AllPairs<0>& pairs) {
    if constexpr (!IS_TOP) {
      FedTo<STAGE> fed;
      each<COUNT>([&](auto r) {
        double value[VECTOR];
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) value[c] = args.reductions[FIRST + r.value].fill;
        emit<r.value>(args, self, value, fed);
      });
      Above::take(args, self, pairs, fed.row);
    }
  }
};

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

// Takes the rows that have arrived, up to `until`. `ring` is the thread's own part of the first of them; the next one is `pitch` bytes on.
LF_DEVICE void walk(const FoldArgs& args, Self self, Level<0>& level, AllPairs<0>& pairs, Index& p, Index until, const u8* ring, u32 pitch) {
  typedef Level<0>::Acc Acc;
  while (p < until) {
    if (TOP == 0 && p == level.end) level.next_segment(args);
    const Index to = smaller(level.block_end, until);
#pragma unroll 4
    for (; p < to; ++p, ring += pitch) {
      union Packed {
        typename Word<LF_BYTES>::Of word;
        Raw elements[VECTOR];
      };
      Packed packed;
      packed.word = *(const typename Word<LF_BYTES>::Of*)ring;
      Acc x[VECTOR];
#pragma unroll
      for (int c = 0; c < VECTOR; ++c) x[c] = Type<LF_VALUE>::widen(packed.elements[c]);
      level.at = p;
      level.push(args, x);
    }
    level.at = p;
    if (p == level.block_end) level.close(args, self, pairs);
  }
}

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

// -------------------------------------------------------------------------------------------------------------- kernel

LF_KERNEL(lf_fold, FoldArgs, THREADS) {
  LF_SHARED(shared);
  const u32 thread = threadIdx.x;
  const u32 units = args.run_count * args.slabs;
  Level<0> level;
  AllPairs<0> pairs;
  Self self;
#if LF_TILE
  // Groups do not cross warps. A lane without work still helps to bring tiles.
  const u32 in_warp = thread % 32, groups = 32 / args.lanes;
  const u32 unit = (blockIdx.x * (THREADS / 32) + thread / 32) * groups + in_warp / args.lanes;
  const bool active = in_warp < groups * args.lanes && unit < units;
  const Index* run = (const Index*)args.runs + (u64)(active ? unit / args.slabs : 0) * (2 + LF_STAGES);
  self.column = (active ? unit % args.slabs : 0) * args.lanes + in_warp % args.lanes;
  self.on = active && self.column < args.features;
  Index p = active ? run[0] : 0;
  const Index limit = active ? run[2 + LF_STAGES] : 0;
  level.piece = run[1];
  if (active) level.start(args, self, run, pairs);
  Index longest = limit - p;
#pragma unroll
  for (int apart = 16; apart; apart /= 2) {
    const Index other = __shfl_xor_sync(0xffffffffu, longest, apart);
    longest = other > longest ? other : longest;
  }
  constexpr u32 TILE_BYTES = BATCH * TILE_PITCH * sizeof(Raw);
  u8* const tiles = shared + thread / 32 * (BATCHES * TILE_BYTES);
  fetch_tiles(args, groups, in_warp, p, limit, self.column, tiles);
  sent();
  u32 batch = 0;
  for (Index done = 0; done < longest; done += BATCH) {
    const Index next = limit - p > BATCH ? p + BATCH : limit;
    fetch_tiles(args, groups, in_warp, next, limit, self.column, tiles + (batch ^ 1) * TILE_BYTES);
    sent();
    arrived<BATCHES - 1>();
    __syncwarp();
    if (active) walk(args, self, level, pairs, p, next, tiles + batch * TILE_BYTES + in_warp * sizeof(Raw), TILE_PITCH * sizeof(Raw));
    __syncwarp();
    batch ^= 1;
    if (longest - done <= BATCH) break;
  }
#else
  const u32 id = blockIdx.x * THREADS + thread;
  const u32 unit = id / args.lanes;
  if (unit >= units) return;
  const Index* run = (const Index*)args.runs + (u64)(unit / args.slabs) * (2 + LF_STAGES);
  self.column = (unit % args.slabs * args.lanes + id % args.lanes) * VECTOR;
  self.on = true;
  if (self.column >= args.features) return;
  Rows rows;
  rows.start(args, self, run);
  u8* const ring = shared + thread * LF_BYTES;
  constexpr u32 BATCH_BYTES = BATCH * THREADS * LF_BYTES;
#pragma unroll
  for (int b = 0; b < BATCHES - 1; ++b) {
    rows.fetch(args, self, ring + b * BATCH_BYTES);
    sent();
  }
  level.piece = run[1];
  level.start(args, self, run, pairs);
  Index p = run[0];
  const Index limit = run[2 + LF_STAGES];
  u32 batch = 0;
  while (p < limit) {
    rows.fetch(args, self, ring + (batch + BATCHES - 1) % BATCHES * BATCH_BYTES);
    sent();
    arrived<BATCHES - 1>();
    const Index next = limit - p > BATCH ? p + BATCH : limit;
    walk(args, self, level, pairs, p, next, ring + batch * BATCH_BYTES, THREADS * LF_BYTES);
    batch = (batch + 1) % BATCHES;
  }
#endif
}
