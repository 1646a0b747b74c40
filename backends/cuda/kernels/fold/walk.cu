// ------------------------------------------------------------------------------------------------------------------ walk

// Rows at a time: a state takes more operations than that would save, and so does what is done to a row before.
constexpr int UNROLL = has_states<0>() || Before<0>::COUNT ? 1 : 4;

// Takes the rows that have arrived, up to `until`. `ring` is the thread's own part of the first of them; the next one is `pitch` bytes on.
LF_DEVICE void walk(const FoldArgs& args, Self self, Level<0>& level, AllPairs<0>& pairs, Index& p, Index until, const u8* ring, u32 pitch) {
  typedef Level<0>::Acc Acc;
  while (p < until) {
    if (TOP == 0 && p == level.end) level.next_segment(args);
    const Index to = smaller(level.block_end, until);
#pragma unroll UNROLL
    for (; p < to; ++p, ring += pitch) {
      Acc x[VECTOR];
      take_row(ring, x);
      level.at = p;
      level.push(args, self, x);
    }
    level.at = p;
    if (p == level.block_end) level.close(args, self, pairs);
  }
}

// -------------------------------------------------------------------------------------------------------------- kernel

LF_KERNEL(lf_fold, FoldArgs, THREADS) {
  LF_SHARED(shared);
  const u32 thread = threadIdx.x;
  const u32 units = args.run_count * args.slabs;
  Level<0> level;
  AllPairs<0> pairs;
  Self self;
  self.shared = shared;
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
