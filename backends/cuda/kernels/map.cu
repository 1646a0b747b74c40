// Operations on single elements of whole rows, where no fold takes them. One module for all plans: which operations is an argument, as they cost little beside
// the rows' way through memory.

enum : u32 { ADD = CAST + 1 };

// Elements that are read and written at once.
template <class Raw, int N> struct alignas(N * sizeof(Raw)) Several {
  Raw of[N];
};

// What a thread works on at a time: some units of a row, N elements each. Between operations they are f32, or f64 where a type of the list is.
template <class Carrier, int UNITS, int N> struct Part {
  u64 row[UNITS];
  u32 column[UNITS];
  bool on[UNITS];
  Carrier x[UNITS][N];

  LF_DEVICE u8* place(const MapRows& rows, int u) const {
    return rows.address + (i64)row[u] * rows.row_stride + (i64)column[u] * N * rows.column_stride;
  }

  // All are under way before the first is used.
  template <int TYPE> LF_DEVICE void read(const MapRows& rows) {
    typedef Several<typename Type<TYPE>::Raw, N> Unit;
    Unit units[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      if (on[u]) units[u] = *(const Unit*)place(rows, u);
    }
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
#pragma unroll
      for (int c = 0; c < N; ++c) x[u][c] = on[u] ? (Carrier)Type<TYPE>::widen(units[u].of[c]) : (Carrier)0;
    }
  }

  // What is stored is of the type already, so nothing is rounded here.
  template <int TYPE> LF_DEVICE void write(const MapRows& rows) const {
    typedef Several<typename Type<TYPE>::Raw, N> Unit;
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      Unit unit;
#pragma unroll
      for (int c = 0; c < N; ++c) unit.of[c] = Type<TYPE>::nearest(x[u][c]);
      if (on[u]) *(Unit*)place(rows, u) = unit;
    }
  }

  template <int TYPE> LF_DEVICE void round() {
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
#pragma unroll
      for (int c = 0; c < N; ++c) x[u][c] = (Carrier)Type<TYPE>::widen(Type<TYPE>::nearest(x[u][c]));
    }
  }

  template <int KIND, class Acc> LF_DEVICE void operate_on(u64 number) {
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
#pragma unroll
      for (int c = 0; c < N; ++c) x[u][c] = (Carrier)operate<KIND>((Acc)x[u][c], number);
    }
  }

  template <class Acc> LF_DEVICE void add(const Part& other) {
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
#pragma unroll
      for (int c = 0; c < N; ++c) x[u][c] = (Carrier)((Acc)x[u][c] + (Acc)other.x[u][c]);
    }
  }

  // Calls one of the above for the type of rows that is known at run time. Rows of f64 are never carried in f32.
  LF_DEVICE void read_as(u32 type, const MapRows& rows) {
    switch (type) {
      case F16: read<F16>(rows); break;
      case BF16: read<BF16>(rows); break;
      case F64: if constexpr (sizeof(Carrier) == 8) { read<F64>(rows); break; }
      default: read<F32>(rows);
    }
  }

  LF_DEVICE void write_as(u32 type, const MapRows& rows) const {
    switch (type) {
      case F16: write<F16>(rows); break;
      case BF16: write<BF16>(rows); break;
      case F64: if constexpr (sizeof(Carrier) == 8) { write<F64>(rows); break; }
      default: write<F32>(rows);
    }
  }

  LF_DEVICE void round_to(u32 type) {
    switch (type) {
      case F16: round<F16>(); break;
      case BF16: round<BF16>(); break;
      case F64: if constexpr (sizeof(Carrier) == 8) { round<F64>(); break; }
      default: round<F32>();
    }
  }

  // One operation in the accumulator of the rows that it takes, before its result is rounded.
  template <class Acc> LF_DEVICE void one(const MapArgs& args, const MapOp& op, u32 type) {
    switch (op.kind) {
      case RELU: operate_on<RELU, Acc>(op.number); break;
      case GELU: operate_on<GELU, Acc>(op.number); break;
      case GELU_TANH: operate_on<GELU_TANH, Acc>(op.number); break;
      case SILU: operate_on<SILU, Acc>(op.number); break;
      case TANH: operate_on<TANH, Acc>(op.number); break;
      case SIGMOID: operate_on<SIGMOID, Acc>(op.number); break;
      case SCALE: operate_on<SCALE, Acc>(op.number); break;
      case ADD: {
        Part other = *this;
        other.read_as(type, args.others[op.number]);
        add<Acc>(other);
        break;
      }
      default: break;
    }
  }
};

template <class Carrier, int UNITS, int N> LF_DEVICE void map_rows(const MapArgs& args) {
  const u64 chunk = rows_of_chunk(args.units);
  for (u64 first = blockIdx.x * chunk; first < args.rows; first += gridDim.x * chunk) {
    Walk walk(first, args.rows, args.units);
    while (walk.left) {
      Part<Carrier, UNITS, N> part;
#pragma unroll
      for (int u = 0; u < UNITS; ++u) {
        part.row[u] = walk.row;
        part.column[u] = walk.column;
        part.on[u] = walk.left;
        if (walk.left) walk.step();
      }
      u32 type = args.source_type;
      part.read_as(type, args.source);
#pragma unroll 1
      for (u32 n = 0; n < args.op_count; ++n) {
        const MapOp& op = args.ops[n];
        if constexpr (sizeof(Carrier) == 8) {
          if (type == F64) part.template one<double>(args, op, type);
          else part.template one<float>(args, op, type);
        } else {
          part.template one<float>(args, op, type);
        }
        type = op.dtype;
        part.round_to(type);
      }
      part.write_as(type, args.target);
    }
  }
}

// No type of the list is f64: 16 bytes of the widest at once, or single elements.
LF_KERNEL(lf_map, MapArgs, MOVE_THREADS) {
  if (args.elements == 4) map_rows<float, 2, 4>(args);
  else map_rows<float, 4, 1>(args);
}

// Some are.
LF_KERNEL(lf_map_wide, MapArgs, MOVE_THREADS) {
  if (args.elements == 2) map_rows<double, 2, 2>(args);
  else map_rows<double, 2, 1>(args);
}
