// Folds rows into segments, stage after stage, each row read once. Specialised by LF_VALUE, LF_SOURCE, LF_TILE, LF_BYTES, LF_INDEX, LF_STAGES and
// LF_STAGE_LIST: see src/spec.rs, which also says how work is cut into runs.
//
// The parts of this folder are one source, in this order: shape (what is folded), pairs (blocks, paired), results (rows on their way out), stages
// (the fold), loads (rows on their way in), walk (the kernel).
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

#ifndef LF_MOST_OPS
#define LF_MOST_OPS 1
#endif

// The operations are those on results before they are stored or handed on, and on rows before they are folded.
struct ReductionSpec {
  int reducer, weighted, dtype, op_count;
  OpSpec ops[LF_MOST_OPS];
};

struct StageSpec {
  int feed, depth, count;
  ReductionSpec reductions[MOST_REDUCTIONS];
  int op_count;
  OpSpec ops[LF_MOST_OPS];
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

template <int STAGE> struct Before {
  static constexpr int COUNT = STAGES[STAGE].op_count;
  static constexpr OpSpec at(int n) { return STAGES[STAGE].ops[n]; }
};

template <int STAGE, int R> struct After {
  static constexpr int COUNT = STAGES[STAGE].reductions[R].op_count;
  static constexpr OpSpec at(int n) { return STAGES[STAGE].reductions[R].ops[n]; }
};

constexpr int last_type(const OpSpec* ops, int count, int type) { return count ? ops[count - 1].dtype : type; }

// The type of what a reduction gives, of what comes to a stage, and of what it folds.
constexpr int made_type(int stage, int reduction) {
  return last_type(STAGES[stage].reductions[reduction].ops, STAGES[stage].reductions[reduction].op_count, STAGES[stage].reductions[reduction].dtype);
}
constexpr int fed_type(int stage) { return stage == 0 ? LF_VALUE : made_type(stage - 1, STAGES[stage].feed); }
constexpr int input_type(int stage) { return last_type(STAGES[stage].ops, STAGES[stage].op_count, fed_type(stage)); }

constexpr bool weighted_mean(int stage, int reduction) {
  return STAGES[stage].reductions[reduction].reducer == MEAN && STAGES[stage].reductions[reduction].weighted;
}

// -------------------------------------------------------------------------------------------------------------- states

constexpr bool is_plain(int reducer) { return reducer <= PROD; }

// Numbers a column that a reducer has in a block and in a tree, and how often it goes over a block's rows.
template <int REDUCER, bool PLAIN = is_plain(REDUCER)> struct Kind {
  static constexpr int BLOCK = Monoid<REDUCER>::BLOCK, TREE = Monoid<REDUCER>::TREE, PASSES = Monoid<REDUCER>::PASSES;
};

template <int REDUCER> struct Kind<REDUCER, true> {
  static constexpr int BLOCK = 1, TREE = 1, PASSES = 1;
};

template <int STAGE, int R> using KindOf = Kind<STAGES[STAGE].reductions[R].reducer>;

// Where a reduction's numbers begin among those of its stage; of the count of reductions, how many there are.
template <int STAGE, int R> constexpr int block_plane() {
  if constexpr (R == 0) return 0; else return block_plane<STAGE, R - 1>() + KindOf<STAGE, R - 1>::BLOCK;
}

template <int STAGE, int R> constexpr int tree_plane() {
  if constexpr (R == 0) return 0; else return tree_plane<STAGE, R - 1>() + KindOf<STAGE, R - 1>::TREE;
}

// Whether a stage goes over its blocks twice: from it or from a later one of its reductions.
template <int STAGE, int R = 0> constexpr bool goes_again() {
  if constexpr (R == STAGES[STAGE].count) return false; else return KindOf<STAGE, R>::PASSES > 1 || goes_again<STAGE, R + 1>();
}

template <int STAGE, int R = 0> constexpr bool has_states() {
  if constexpr (R == STAGES[STAGE].count) return false; else return !is_plain(STAGES[STAGE].reductions[R].reducer) || has_states<STAGE, R + 1>();
}

constexpr int at_least_one(int count) { return count ? count : 1; }

// Shared memory: what arrives, and then for each stage that goes over its blocks twice the rows of one block, each thread its own columns.
constexpr u32 RING_BYTES = LF_TILE ? THREADS / 32 * BATCHES * BATCH * 33 * (int)sizeof(Raw) : BATCHES * BATCH * THREADS * LF_BYTES;

template <int STAGE> constexpr u32 held_bytes() {
  constexpr u32 row = VECTOR * sizeof(typename Type<input_type(STAGE)>::Acc);
  return goes_again<STAGE>() ? BLOCK_ROWS * THREADS * row : 0;
}

template <int STAGE> constexpr u32 held_at() {
  if constexpr (STAGE == 0) return RING_BYTES; else return held_at<STAGE - 1>() + held_bytes<STAGE - 1>();
}

static_assert(held_at<LF_STAGES - 1>() + held_bytes<LF_STAGES - 1>() == LF_SHARED_BYTES, "the host asks for other shared memory");

// What a thread knows of itself.
struct Self {
  u32 column;  // its first
  bool on;     // whether it has any
  u8* shared;  // the block's
};
