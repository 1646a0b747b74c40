// What goes over whole rows, unit by unit, shares: how work is cut, and the arguments of lf_map, whose layout a test asks the moves for.

constexpr int MOVE_THREADS = 256;
constexpr u32 MOVE_UNITS = 4096;

constexpr int MOST_MAP_OPS = 64;
constexpr int MOST_MAP_OTHERS = 16;

struct MapRows {
  u8* address;
  i64 row_stride, column_stride;
};

struct MapOp {
  u64 number;
  u32 kind, dtype;
};

struct MapArgs {
  MapRows source, target;
  u64 rows;
  u32 units, elements, source_type, op_count;
  MapOp ops[MOST_MAP_OPS];
  MapRows others[MOST_MAP_OTHERS];
};

static_assert(sizeof(MapArgs) == LF_MAP_BYTES, "the host has other arguments");

// Work comes in chunks of whole rows, about MOVE_UNITS units each; a block takes one, and another so many blocks further on.
LF_DEVICE u32 rows_of_chunk(u32 columns) { return columns < MOVE_UNITS ? MOVE_UNITS / columns : 1; }

// Unit `thread`, `thread` + MOVE_THREADS, ... of a chunk, as (row, column), dividing once.
struct Walk {
  u64 row;
  u32 column, columns, step_rows, step_columns, left;

  LF_DEVICE Walk(u64 first_row, u64 rows, u32 of_columns) {
    const u32 chunk_rows = rows_of_chunk(of_columns);
    const u32 units = (rows - first_row < chunk_rows ? (u32)(rows - first_row) : chunk_rows) * of_columns;
    columns = of_columns;
    row = first_row + threadIdx.x / columns;
    column = threadIdx.x % columns;
    step_rows = MOVE_THREADS / columns;
    step_columns = MOVE_THREADS % columns;
    left = threadIdx.x < units ? (units - threadIdx.x + MOVE_THREADS - 1) / MOVE_THREADS : 0;
  }

  LF_DEVICE void step() {
    row += step_rows;
    column += step_columns;
    if (column >= columns) {
      column -= columns;
      ++row;
    }
    --left;
  }
};
