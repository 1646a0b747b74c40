// What surrounds the folds: empty segments, copies. One module for all plans, together with finish_plain.cu; the interface is described in src/args.rs.

struct FillArgs {
  const u64* rows;
  u64 count;
  u8* out;
  i64 out_row_stride, out_column_stride;
  double fill;
  u32 features, out_type;
};

struct CopyArgs {
  const u8* source;
  i64 source_row_stride, source_column_stride;
  u8* target;
  i64 target_row_stride, target_column_stride;
  const u8* ids;
  i64 id_stride;
  const u64* offsets;
  const u64* shifts;
  u64 segments, rows;
  u32 columns, unit, id_bytes, source_feature_major, target_feature_major, reserved;
};

struct LayoutArgs {
  u32* out;
};

static_assert(sizeof(FillArgs) == LF_FILL_BYTES, "the host has other arguments");
static_assert(sizeof(CopyArgs) == LF_COPY_BYTES, "the host has other arguments");

// ---------------------------------------------------------------------------------------------------------------- moves

LF_KERNEL(lf_fill, FillArgs, MOVE_THREADS) {
  const u64 chunk = rows_of_chunk(args.features);
  for (u64 first = blockIdx.x * chunk; first < args.count; first += gridDim.x * chunk) {
    for (Walk walk(first, args.count, args.features); walk.left; walk.step()) {
      const u64 row = args.rows ? args.rows[walk.row] : walk.row;
      store_float(args.out + (i64)row * args.out_row_stride + (i64)walk.column * args.out_column_stride, args.out_type, args.fill);
    }
  }
}

// Where one unit lies on each side.
struct Places {
  u64 segment, start, end;

  LF_DEVICE Places(const CopyArgs& args, u64 row) {
    segment = start = end = 0;
    if (!args.offsets) return;
    // The segment of a row: the last one that begins at or before it.
    u64 low = 0, high = args.segments;
    while (high - low > 1) {
      const u64 middle = low + (high - low) / 2;
      if (args.offsets[middle] <= row) low = middle; else high = middle;
    }
    segment = low;
    start = args.offsets[low];
    end = args.offsets[low + 1];
  }

  LF_DEVICE void go(const CopyArgs& args, u64 row) {
    if (!args.offsets) return;
    while (row >= end) {
      ++segment;
      start = end;
      end = args.offsets[segment + 1];
    }
  }

  LF_DEVICE i64 feature_major(const CopyArgs& args, const Walk& walk) const {
    return (i64)((start * args.columns + walk.column * (end - start) + (walk.row - start)) * args.unit);
  }

  LF_DEVICE const u8* source(const CopyArgs& args, const Walk& walk) const {
    if (args.source_feature_major) return args.source + feature_major(args, walk);
    u64 row = walk.row;
    if (args.ids) row = load_id(args.ids + (i64)row * args.id_stride, args.id_bytes);
    else if (args.shifts) row += args.shifts[segment];
    return args.source + (i64)row * args.source_row_stride + (i64)walk.column * args.source_column_stride;
  }

  LF_DEVICE u8* target(const CopyArgs& args, const Walk& walk) const {
    if (args.target_feature_major) return args.target + feature_major(args, walk);
    return args.target + (i64)walk.row * args.target_row_stride + (i64)walk.column * args.target_column_stride;
  }
};

// Up to four units of a type: all loads are under way before the first is stored.
template <class Unit> LF_DEVICE void move_units(const u8* const (&from)[4], u8* const (&to)[4]) {
  Unit unit[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (to[i]) unit[i] = *(const Unit*)from[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (to[i]) *(Unit*)to[i] = unit[i];
  }
}

LF_KERNEL(lf_copy, CopyArgs, MOVE_THREADS) {
  const u64 chunk = rows_of_chunk(args.columns);
  for (u64 first = blockIdx.x * chunk; first < args.rows; first += gridDim.x * chunk) {
    Walk walk(first, args.rows, args.columns);
    if (!walk.left) continue;
    Places places(args, walk.row);
    while (walk.left) {
      const u8* from[4];
      u8* to[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        from[i] = to[i] = nullptr;
        if (walk.left) {
          places.go(args, walk.row);
          from[i] = places.source(args, walk);
          to[i] = places.target(args, walk);
          walk.step();
        }
      }
      switch (args.unit) {
        case 1: move_units<u8>(from, to); break;
        case 2: move_units<u16>(from, to); break;
        case 4: move_units<u32>(from, to); break;
        case 8: move_units<u64>(from, to); break;
        default: move_units<uint4>(from, to); break;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- tests

#ifndef LF_SHIM
#define LF_AT(Args, field) (u32)(u64)&((const Args*)0)->field
#else
#define LF_AT(Args, field) (u32)__builtin_offsetof(Args, field)
#endif

// Sizes and offsets, in the order of args::layout, so that a test can hold the host's against them.
LF_KERNEL(lf_layout, LayoutArgs, 1) {
  const u32 numbers[] = {LF_LAYOUT};
  for (u32 i = 0; i < sizeof(numbers) / sizeof(numbers[0]); ++i) args.out[i] = numbers[i];
}
