// The second pass over long segments of a reducer with a state, LF_REDUCER. A partial is as many rows of f64 as a tree's state has numbers.

constexpr int PLANES = Monoid<LF_REDUCER>::TREE;
constexpr int ROOM = PLANES ? PLANES : 1;

static_assert(sizeof(FinishArgs) == LF_FINISH_BYTES, "the host has other arguments");

// Up to 32 neighbours; loads are four at a time.
template <class Load> LF_DEVICE State<double> fold_neighbours(u32 count, Load load) {
  double groups[ROOM][6][1];
  State<double> folded[1] = {};
  for (u32 at = 0; at < count; at += 4) {
    State<double> next[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      if (at + i < count) next[i] = load(at + i);
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      if (at + i >= count) continue;
      State<double> one[1] = {next[i]};
      push_states<LF_REDUCER>(groups, at + i, one);
    }
  }
  if (count) fold_states<LF_REDUCER>(groups, count, folded);
  return folded[0];
}

// A block folds one group of 32 columns: eight warps, 32 partials each, and then the eight.
LF_KERNEL(lf_finish_states, FinishArgs, FINISH_THREADS) {
  __shared__ double of_warps[ROOM][8][32];
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u32 slabs = (args.features + 31) / 32;
  const FinishGroup group = args.groups[blockIdx.x / slabs];
  const u32 column = blockIdx.x % slabs * 32 + lane;
  const bool on = column < args.features;
  const u32 before = warp * 32;
  const u32 mine = group.count > before ? (group.count - before < 32 ? group.count - before : 32) : 0;
  // A lane without a column folds the first one again.
  const double* from = args.source + (group.first + before) * PLANES * args.features + (on ? column : 0);
  const State<double> of_warp = fold_neighbours(mine, [&](u32 at) {
    State<double> state = {{0.0, 0.0, 0.0, 0.0}};
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) state.part[plane] = from[((u64)at * PLANES + plane) * args.features];
    return state;
  });
#pragma unroll
  for (int plane = 0; plane < PLANES; ++plane) of_warps[plane][warp][lane] = of_warp.part[plane];
  __syncthreads();
  if (warp != 0 || !on) return;
  const State<double> state = fold_neighbours((group.count + 31) / 32, [&](u32 at) {
    State<double> state = {{0.0, 0.0, 0.0, 0.0}};
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) state.part[plane] = of_warps[plane][at][lane];
    return state;
  });
  if (!group.last) {
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane) args.target[(group.to * PLANES + plane) * args.features + column] = state.part[plane];
    return;
  }
  const double value = Monoid<LF_REDUCER>::finish_tree(state, (double)group.rows, args.ddof);
  store_finished(args, group.to, column, value);
}
