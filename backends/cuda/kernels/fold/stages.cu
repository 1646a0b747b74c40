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

// A stage and those above it. The row that it takes next is `at`, in the segment [first, end); its block ends at `block_end`. Every row enters a stage
// by push(), in the accumulator's type, and every result leaves it by emit().
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
