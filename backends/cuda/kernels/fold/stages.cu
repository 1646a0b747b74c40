// --------------------------------------------------------------------------------------------------------------- stages

// What a stage hands to the next one: a row, as numbers of its type's accumulator.
template <int STAGE> struct FedTo {
  typename Type<fed_type(STAGE < TOP ? STAGE + 1 : STAGE)>::Acc row[VECTOR];
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

  Acc acc[at_least_one(block_plane<STAGE, COUNT>())][VECTOR];
  Acc weight[COUNT];
  Index segment, first, end, block_end, at;
  Index stop;   // below the top: the first segment that is not this run's
  Index shift;  // at stage 0: from positions to rows
  u32 blocks;

  LF_DEVICE void start_block() {
    each<COUNT>([&](auto r) {
      constexpr int REDUCER = STAGES[STAGE].reductions[r.value].reducer;
      constexpr int PLANE = block_plane<STAGE, r.value>();
#pragma unroll
      for (int c = 0; c < VECTOR; ++c) {
        if constexpr (is_plain(REDUCER)) acc[PLANE][c] = identity<REDUCER, Acc>();
        else put_state<r.value>(c, Monoid<REDUCER>::template start<Acc>());
      }
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

  // The weight of a row; 1 where there are none.
  template <int R> LF_DEVICE Acc weight_of(const FoldArgs& args, Index taken) const {
    if constexpr (!STAGES[STAGE].reductions[R].weighted) return (Acc)1;
    const ReductionArgs& of = args.reductions[FIRST + R];
    const Index row = STAGE == 0 ? (Index)(taken + shift) : taken;
    return load_float<Acc>(of.weights + (i64)row * of.weight_stride, of.weight_type);
  }

  // A column of a reduction's state.
  template <int R> LF_DEVICE State<Acc> get_state(int c) const {
    State<Acc> state = {{(Acc)0, (Acc)0, (Acc)0, (Acc)0}};
#pragma unroll
    for (int plane = 0; plane < KindOf<STAGE, R>::BLOCK; ++plane) state.part[plane] = acc[block_plane<STAGE, R>() + plane][c];
    return state;
  }

  template <int R> LF_DEVICE void put_state(int c, State<Acc> state) {
#pragma unroll
    for (int plane = 0; plane < KindOf<STAGE, R>::BLOCK; ++plane) acc[block_plane<STAGE, R>() + plane][c] = state.part[plane];
  }

  // One row of a pass, into the states that have this pass.
  template <int PASS> LF_DEVICE void push_states_of_row(const FoldArgs& args, const Acc (&x)[VECTOR], Index taken, u32 index) {
    each<COUNT>([&](auto r) {
      constexpr int REDUCER = STAGES[STAGE].reductions[r.value].reducer;
      if constexpr (!is_plain(REDUCER) && KindOf<STAGE, r.value>::PASSES > PASS) {
        const Acc w = weight_of<r.value>(args, taken);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) put_state<r.value>(c, Monoid<REDUCER>::template push<PASS>(get_state<r.value>(c), x[c], w, index));
      }
    });
  }

  template <int PASS> LF_DEVICE void close_pass() {
    each<COUNT>([&](auto r) {
      constexpr int REDUCER = STAGES[STAGE].reductions[r.value].reducer;
      if constexpr (!is_plain(REDUCER) && KindOf<STAGE, r.value>::PASSES > PASS) {
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) put_state<r.value>(c, Monoid<REDUCER>::template close<PASS>(get_state<r.value>(c)));
      }
    });
  }

  // Where the thread's own columns of a row of the block are held: nobody else touches them, so nothing is waited for.
  union Held {
    typename Word<VECTOR * sizeof(Acc) <= 16 ? VECTOR * (int)sizeof(Acc) : 16>::Of word;
    Acc row[VECTOR];
  };

  LF_DEVICE Held* held(Self self, u32 index) const { return (Held*)(self.shared + held_at<STAGE>()) + (index * THREADS + threadIdx.x); }

  // The block's rows once more, in the same order.
  LF_DEVICE void go_again(const FoldArgs& args, Self self) {
    if constexpr (goes_again<STAGE>()) {
      static_assert(sizeof(Held) <= 16, "a lane reads fewer columns where blocks are gone over twice");
      const u32 rows = (u32)(at - first - 1) % BLOCK_ROWS + 1;
      for (u32 index = 0; index < rows; ++index) {
        Held again;
        again.word = held(self, index)->word;
        push_states_of_row<1>(args, again.row, at - rows + index, index);
      }
      close_pass<1>();
    }
  }

  // One more row. Who calls counts `at`.
  LF_DEVICE void push(const FoldArgs& args, Self self, const Acc (&x)[VECTOR]) {
    each<COUNT>([&](auto r) {
      constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[r.value];
      constexpr int PLANE = block_plane<STAGE, r.value>();
      if constexpr (is_plain(SPEC.reducer)) {
        const Acc w = weight_of<r.value>(args, at);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) acc[PLANE][c] = combine<SPEC.reducer>(acc[PLANE][c], SPEC.weighted ? w * x[c] : x[c]);
        if constexpr (weighted_mean(STAGE, r.value)) weight[r.value] = weight[r.value] + w;
      }
    });
    if constexpr (has_states<STAGE>()) {
      const u32 index = (u32)(at - first) % BLOCK_ROWS;
      push_states_of_row<0>(args, x, at, index);
      if constexpr (goes_again<STAGE>()) {
        Held kept;
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) kept.row[c] = x[c];
        held(self, index)->word = kept.word;
      }
    }
  }

  // A row from the stage below, rounded to its type.
  LF_DEVICE void take(const FoldArgs& args, Self self, AllPairs<0>& pairs, const typename Type<fed_type(STAGE)>::Acc (&row)[VECTOR]) {
    if constexpr (IS_TOP) {
      if (at == end) next_segment(args);
    }
    Acc x[VECTOR];
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) x[c] = all_operations<Before<STAGE>, fed_type(STAGE)>(row[c]);
    push(args, self, x);
    ++at;
    if (at == block_end) close(args, self, pairs);
  }

  // What a reduction made of the current segment, before it is rounded.
  template <int R, class Wide> LF_DEVICE void emit(const FoldArgs& args, Self self, const Wide (&value)[VECTOR], FedTo<STAGE>& fed) {
    constexpr int ROUNDED = STAGES[STAGE].reductions[R].dtype, OUT = made_type(STAGE, R);
    typename Type<OUT>::Raw row[VECTOR];
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) {
      const typename Type<ROUNDED>::Raw rounded = Type<ROUNDED>::nearest(value[c]);
      if constexpr (After<STAGE, R>::COUNT == 0) row[c] = rounded;
      else row[c] = Type<OUT>::nearest(all_operations<After<STAGE, R>, ROUNDED>(Type<ROUNDED>::widen(rounded)));
    }
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
    close_pass<0>();
    go_again(args, self);
    if (last && blocks == 0 && !is_long) {
      // One block is the segment: it stays in the accumulator's type.
      each<COUNT>([&](auto r) {
        constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[r.value];
        constexpr int PLANE = block_plane<STAGE, r.value>();
        Acc value[VECTOR];
        const Acc by = SPEC.reducer == MEAN && SPEC.weighted ? weight[r.value] : (Acc)(end - first);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) {
          if constexpr (is_plain(SPEC.reducer)) value[c] = SPEC.reducer == MEAN ? acc[PLANE][c] / by : acc[PLANE][c];
          else value[c] = Monoid<SPEC.reducer>::finish_block(get_state<r.value>(c), by, args.reductions[FIRST + r.value].ddof);
        }
        emit<r.value>(args, self, value, fed);
      });
    } else {
      Pairs<STAGE>& own = static_cast<AllPairs<STAGE>&>(pairs).own;
      const bool whole = last || (is_long && blocks + 1 == args.piece_blocks);
      each<COUNT>([&](auto r) {
        if constexpr (is_plain(STAGES[STAGE].reductions[r.value].reducer)) close_plain<r.value>(args, self, own, whole, is_long, fed);
        else close_state<r.value>(args, self, own, whole, is_long, fed);
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

  // One block more of a longer segment; where that is `whole`, its result or its piece.
  template <int R> LF_DEVICE void close_plain(const FoldArgs& args, Self self, Pairs<STAGE>& own, bool whole, bool is_long, FedTo<STAGE>& fed) {
    constexpr ReductionSpec SPEC = STAGES[STAGE].reductions[R];
    double(*const groups)[VECTOR] = own.groups[tree_plane<STAGE, R>()];
    double value[VECTOR];
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) value[c] = (double)acc[block_plane<STAGE, R>()][c];
    push_block<SPEC.reducer>(groups, blocks, value);
    double by[1] = {0.0};
    if constexpr (weighted_mean(STAGE, R)) {
      by[0] = (double)weight[R];
      push_block<SUM>((double(*)[1])own.weights[R], blocks, by);
    }
    if (!whole) return;
    fold_blocks<SPEC.reducer>(groups, blocks + 1, value);
    if constexpr (weighted_mean(STAGE, R)) fold_blocks<SUM>((double(*)[1])own.weights[R], blocks + 1, by);
    if (is_long) {
      if constexpr (IS_TOP) {
        const ReductionArgs& to = args.reductions[FIRST + R];
        if (!self.on) return;
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) to.partials[this->piece * args.features + self.column + c] = value[c];
        if (weighted_mean(STAGE, R) && self.column == 0) to.weight_partials[this->piece] = by[0];
      }
    } else {
      if constexpr (SPEC.reducer == MEAN) {
        const double divisor = SPEC.weighted ? by[0] : (double)(end - first);
#pragma unroll
        for (int c = 0; c < VECTOR; ++c) value[c] = value[c] / divisor;
      }
      emit<R>(args, self, value, fed);
    }
  }

  template <int R> LF_DEVICE void close_state(const FoldArgs& args, Self self, Pairs<STAGE>& own, bool whole, bool is_long, FedTo<STAGE>& fed) {
    typedef Monoid<STAGES[STAGE].reductions[R].reducer> Of;
    constexpr int REDUCER = STAGES[STAGE].reductions[R].reducer;
    const ReductionArgs& to = args.reductions[FIRST + R];
    const double first_row = (double)((at - first - 1) / BLOCK_ROWS * BLOCK_ROWS);
    auto* const groups = own.groups + tree_plane<STAGE, R>();
    State<double> state[VECTOR];
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) state[c] = Of::widen(get_state<R>(c), first_row);
    push_states<REDUCER>(groups, blocks, state);
    if (!whole) return;
    fold_states<REDUCER>(groups, blocks + 1, state);
    if (is_long) {
      if constexpr (IS_TOP) {
        if (!self.on) return;
#pragma unroll
        for (int plane = 0; plane < Of::TREE; ++plane) {
#pragma unroll
          for (int c = 0; c < VECTOR; ++c) to.partials[(this->piece * Of::TREE + plane) * args.features + self.column + c] = state[c].part[plane];
        }
      }
    } else {
      double value[VECTOR];
#pragma unroll
      for (int c = 0; c < VECTOR; ++c) value[c] = Of::finish_tree(state[c], (double)(end - first), to.ddof);
      emit<R>(args, self, value, fed);
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
