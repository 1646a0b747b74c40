// ------------------------------------------------------------------------------------------------------- pairs of blocks

// The blocks of one segment or piece: a binary counter, in which entry d holds a group of 2^d blocks where bit d of the count is set. Touched once
// in 32 rows, and indexed at run time: it lies in local memory. It is apart from the accumulators, so that these stay in registers.
template <int STAGE> struct Pairs {
  double groups[at_least_one(tree_plane<STAGE, STAGES[STAGE].count>())][STAGES[STAGE].depth + 1][VECTOR];
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
