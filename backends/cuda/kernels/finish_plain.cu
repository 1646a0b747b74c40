// The second pass over long segments of a reducer without a state.

static_assert(sizeof(FinishArgs) == LF_FINISH_BYTES, "the host has other arguments");

// The first `count` of up to N neighbours, in pairs, level by level; an odd last one moves up.
template <int REDUCER, int N> LF_DEVICE double pairs(double (&value)[N], u32 count) {
#pragma unroll
  for (int apart = 1; apart < N; apart *= 2) {
#pragma unroll
    for (int i = 0; i + apart < N; i += 2 * apart) {
      if ((u32)(i + apart) < count) value[i] = combine<REDUCER>(value[i], value[i + apart]);
    }
  }
  return value[0];
}

// Up to 32 rows of partials, eight loads under way at a time.
template <int REDUCER> LF_DEVICE double fold_32(const double* from, u64 pitch, u32 count) {
  double eights[4] = {0.0, 0.0, 0.0, 0.0};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if ((u32)(8 * e) < count) {
      double value[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] = (u32)(8 * e + i) < count ? from[(u64)(8 * e + i) * pitch] : 0.0;
      eights[e] = pairs<REDUCER>(value, count - 8 * e);
    }
  }
  return pairs<REDUCER>(eights, (count + 7) / 8);
}

template <int REDUCER> LF_DEVICE double fold_column(double (&of_warps)[8][32], u32 warp, u32 lane, const double* from, u64 pitch, u32 count) {
  const u32 before = warp * 32;
  const u32 mine = count > before ? (count - before < 32 ? count - before : 32) : 0;
  of_warps[warp][lane] = mine ? fold_32<REDUCER>(from + before * pitch, pitch, mine) : 0.0;
  __syncthreads();
  double value[8];
#pragma unroll
  for (int w = 0; w < 8; ++w) value[w] = of_warps[w][lane];
  __syncthreads();
  return pairs<REDUCER>(value, (count + 31) / 32);
}

// A block folds one group of 32 columns: eight warps, 32 partials each, and then the eight.
LF_KERNEL(lf_finish, FinishArgs, FINISH_THREADS) {
  __shared__ double of_warps[8][32];
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u32 slabs = (args.features + 31) / 32;
  const FinishGroup group = args.groups[blockIdx.x / slabs];
  const u32 slab = blockIdx.x % slabs;
  const u32 column = slab * 32 + lane;
  const bool on = column < args.features;
  // A lane without a column folds the first one again.
  const double* from = args.source + group.first * args.features + (on ? column : 0);
  double value, weight = 0.0;
  switch (args.reducer) {
    case MAX: value = fold_column<MAX>(of_warps, warp, lane, from, args.features, group.count); break;
    case MIN: value = fold_column<MIN>(of_warps, warp, lane, from, args.features, group.count); break;
    case PROD: value = fold_column<PROD>(of_warps, warp, lane, from, args.features, group.count); break;
    default: value = fold_column<SUM>(of_warps, warp, lane, from, args.features, group.count); break;
  }
  if (args.weight_source) weight = fold_column<SUM>(of_warps, warp, lane, args.weight_source + group.first, 1, group.count);
  if (warp != 0 || !on) return;
  if (!group.last) {
    args.target[group.to * args.features + column] = value;
    if (args.weight_source && column == 0) args.weight_target[group.to] = weight;
    return;
  }
  if (args.reducer == MEAN) value = value / (args.weight_source ? weight : (double)group.rows);
  store_finished(args, group.to, column, value);
}
