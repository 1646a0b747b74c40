// Reducers with a state: the twin of src/numerics/monoid.rs, operation for operation. What is documented there is not said again.
//
// A block starts from start() and takes its rows by push<0>(), in the accumulator's type; of two PASSES it goes over them again by push<1>(), and close()
// ends each pass. A block that is all of its segment ends with finish_block(). Others are widened to f64, combined in pairs, and end with finish_tree().
// Custom reducers have the same form: src/custom.rs writes them.

template <class T> struct State {
  T part[4];
};

template <int REDUCER> struct Monoid;

#ifndef LF_SHIM
LF_DEVICE float machine_root(float x) { return __fsqrt_rn(x); }
LF_DEVICE double machine_root(double x) { return __dsqrt_rn(x); }
#else
LF_DEVICE float machine_root(float x) { return __builtin_sqrtf(x); }
LF_DEVICE double machine_root(double x) { return __builtin_sqrt(x); }
#endif

template <class T> LF_DEVICE T root(T x) { return lf_canonical(machine_root(x)); }

template <class T> LF_DEVICE T lowest() { return (T)double_of(0xfff0000000000000ull); }

// What most of them do.
struct Usual {
  template <class T> static LF_DEVICE State<T> start() { return {{(T)0, (T)0, (T)0, (T)0}}; }
  template <int PASS, class T> static LF_DEVICE State<T> close(State<T> state) { return state; }
  template <class T> static LF_DEVICE State<double> widen(State<T> state, double) {
    return {{(double)state.part[0], (double)state.part[1], (double)state.part[2], (double)state.part[3]}};
  }
};

// ------------------------------------------------------------------------------------------------------------- moments

// A block: the weight of its rows, the shift, what is away from it and then the mean of that, squares. A tree: weight, mean, squares.
template <bool ROOT> struct Moments : Usual {
  static constexpr int BLOCK = 4, TREE = 3, PASSES = 2;

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T w, u32) {
    if constexpr (PASS == 0) {
      const T shift = s.part[0] == (T)0 ? x : s.part[1];
      return {{s.part[0] + w, shift, s.part[2] + w * (x - shift), s.part[3]}};
    } else {
      const T away = x - s.part[1] - s.part[2];
      return {{s.part[0], s.part[1], s.part[2], s.part[3] + w * (away * away)}};
    }
  }

  template <int PASS, class T> static LF_DEVICE State<T> close(State<T> s) {
    if constexpr (PASS == 0) s.part[2] = s.part[0] == (T)0 ? (T)0 : s.part[2] / s.part[0];
    return s;
  }

  template <class T> static LF_DEVICE T finish(T weight, T squares, u32 ddof) {
    const T divisor = weight - (T)ddof;
    const T variance = squares / (divisor > (T)0 ? divisor : lf_of_bits(lf_type<T>::nan));
    return ROOT ? root(variance) : variance;
  }

  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32 ddof) { return finish(s.part[0], s.part[3], ddof); }

  template <class T> static LF_DEVICE State<double> widen(State<T> s, double) {
    return {{(double)s.part[0], (double)s.part[1] + (double)s.part[2], (double)s.part[3], 0.0}};
  }

  static LF_DEVICE State<double> combine(State<double> a, State<double> b) {
    const double weight = a.part[0] + b.part[0];
    const double share = weight == 0.0 ? 0.0 : b.part[0] / weight;
    const double apart = b.part[1] - a.part[1];
    const double mean = a.part[0] == 0.0 ? b.part[1] : b.part[0] == 0.0 ? a.part[1] : a.part[1] + apart * share;
    const double between = a.part[0] == 0.0 || b.part[0] == 0.0 ? 0.0 : apart * apart * (a.part[0] * share);
    return {{weight, mean, a.part[2] + b.part[2] + between, 0.0}};
  }

  static LF_DEVICE double finish_tree(State<double> s, double, u32 ddof) { return finish(s.part[0], s.part[2], ddof); }
};

template <> struct Monoid<VAR> : Moments<false> {};
template <> struct Monoid<STD> : Moments<true> {};

// --------------------------------------------------------------------------------------------------------------- norms

template <bool SQUARES> struct Norm : Usual {
  static constexpr int BLOCK = 1, TREE = 1, PASSES = 1;

  template <class T> static LF_DEVICE State<T> start() { return {{(T)-0.0, (T)0, (T)0, (T)0}}; }

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T w, u32) {
    s.part[0] = s.part[0] + w * (SQUARES ? x * x : lf_magnitude(x));
    return s;
  }

  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) { return SQUARES ? root(s.part[0]) : s.part[0]; }

  static LF_DEVICE State<double> combine(State<double> a, State<double> b) {
    a.part[0] = a.part[0] + b.part[0];
    return a;
  }

  static LF_DEVICE double finish_tree(State<double> s, double, u32) { return SQUARES ? root(s.part[0]) : s.part[0]; }
};

template <> struct Monoid<L1> : Norm<false> {};
template <> struct Monoid<L2> : Norm<true> {};

// ---------------------------------------------------------------------------------------------------- rows and positions

template <bool IS_LAST> struct End : Usual {
  static constexpr int BLOCK = 1, TREE = 1, PASSES = 1;

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T, u32 index) {
    s.part[0] = IS_LAST || index == 0 ? x : s.part[0];
    return s;
  }

  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) { return s.part[0]; }
  static LF_DEVICE State<double> combine(State<double> a, State<double> b) { return IS_LAST ? b : a; }
  static LF_DEVICE double finish_tree(State<double> s, double, u32) { return s.part[0]; }
};

template <> struct Monoid<FIRST_ROW> : End<false> {};
template <> struct Monoid<LAST_ROW> : End<true> {};

template <> struct Monoid<ROW_COUNT> : Usual {
  static constexpr int BLOCK = 0, TREE = 0, PASSES = 0;

  template <class T> static LF_DEVICE T finish_block(State<T>, T rows, u32) { return rows; }
  static LF_DEVICE State<double> combine(State<double> a, State<double>) { return a; }
  static LF_DEVICE double finish_tree(State<double>, double rows, u32) { return rows; }
};

// The best value so far, its sign turned for a minimum, and its place.
template <bool IS_MIN> struct Position : Usual {
  static constexpr int BLOCK = 2, TREE = 2, PASSES = 1;

  template <class T> static LF_DEVICE State<T> start() { return {{lowest<T>(), (T)0, (T)0, (T)0}}; }

  // The older one where neither is better.
  template <class T> static LF_DEVICE State<T> better(State<T> older, T value, T place) {
    const bool takes = value > older.part[0] || (value != value && older.part[0] == older.part[0]);
    return {{takes ? value : older.part[0], takes ? place : older.part[1], (T)0, (T)0}};
  }

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T, u32 index) { return better(s, IS_MIN ? -x : x, (T)index); }
  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) { return s.part[1]; }

  template <class T> static LF_DEVICE State<double> widen(State<T> s, double first_row) {
    return {{(double)s.part[0], (double)s.part[1] + first_row, 0.0, 0.0}};
  }

  static LF_DEVICE State<double> combine(State<double> a, State<double> b) { return better(a, b.part[0], b.part[1]); }
  static LF_DEVICE double finish_tree(State<double> s, double, u32) { return s.part[1]; }
};

template <> struct Monoid<ARG_MAX> : Position<false> {};
template <> struct Monoid<ARG_MIN> : Position<true> {};

// -------------------------------------------------------------------------------------------------------- exponentials

// What exponents are shifted by: the largest, where it is finite.
template <class T> LF_DEVICE T shift_of(T largest) { return lf_magnitude(largest) == -lowest<T>() ? (T)0 : largest; }

// The largest exponent, and the sum of w * e^(x - shift).
template <> struct Monoid<LOG_SUM_EXP> : Usual {
  static constexpr int BLOCK = 2, TREE = 2, PASSES = 2;

  template <class T> static LF_DEVICE State<T> start() { return {{lowest<T>(), (T)0, (T)0, (T)0}}; }

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T w, u32) {
    const bool counts = w != (T)0 || x != x;
    if constexpr (PASS == 0) {
      s.part[0] = counts ? maximum(s.part[0], x) : s.part[0];
    } else {
      s.part[1] = s.part[1] + (counts ? w * lf_exp(x - shift_of(s.part[0])) : (T)0);
    }
    return s;
  }

  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) { return shift_of(s.part[0]) + lf_log(s.part[1]); }

  static LF_DEVICE double rescaled(State<double> s, double shift) {
    return s.part[1] == 0.0 ? 0.0 : s.part[1] * lf_exp(shift_of(s.part[0]) - shift);
  }

  static LF_DEVICE State<double> combine(State<double> a, State<double> b) {
    const double largest = maximum(a.part[0], b.part[0]), shift = shift_of(largest);
    return {{largest, rescaled(a, shift) + rescaled(b, shift), 0.0, 0.0}};
  }

  static LF_DEVICE double finish_tree(State<double> s, double, u32) { return shift_of(s.part[0]) + lf_log(s.part[1]); }
};

// The largest score, the sum of e^(w - shift), the sum of e^(w - shift) * x.
template <> struct Monoid<SOFT_MAX> : Usual {
  static constexpr int BLOCK = 3, TREE = 3, PASSES = 2;

  template <class T> static LF_DEVICE State<T> start() { return {{lowest<T>(), (T)0, (T)0, (T)0}}; }

  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T w, u32) {
    if constexpr (PASS == 0) {
      s.part[0] = maximum(s.part[0], w);
    } else {
      const T part = lf_exp(w - shift_of(s.part[0]));
      s.part[1] = s.part[1] + part;
      s.part[2] = s.part[2] + part * x;
    }
    return s;
  }

  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) { return s.part[2] / s.part[1]; }

  static LF_DEVICE double scale(State<double> s, double shift) {
    return lf_exp(s.part[0] == lowest<double>() ? s.part[0] : shift_of(s.part[0]) - shift);
  }

  static LF_DEVICE State<double> combine(State<double> a, State<double> b) {
    const double largest = maximum(a.part[0], b.part[0]), shift = shift_of(largest);
    const double of_a = scale(a, shift), of_b = scale(b, shift);
    return {{largest, a.part[1] * of_a + b.part[1] * of_b, a.part[2] * of_a + b.part[2] * of_b, 0.0}};
  }

  static LF_DEVICE double finish_tree(State<double> s, double, u32) { return s.part[2] / s.part[1]; }
};
// ------------------------------------------------------------------------------------------------- pairs of blocks, by states

template <int PLANES, int DEPTH, int WIDTH> LF_DEVICE State<double> state_of(double (*groups)[DEPTH][WIDTH], int d, int c) {
  State<double> state = {{0.0, 0.0, 0.0, 0.0}};
#pragma unroll
  for (int plane = 0; plane < PLANES; ++plane) state.part[plane] = groups[plane][d][c];
  return state;
}

// A binary counter of states, in which entry d holds a group of 2^d blocks where bit d of the count is set: one more block, so wide.
template <int REDUCER, int DEPTH, int WIDTH> LF_DEVICE void push_states(double (*groups)[DEPTH][WIDTH], u32 blocks, State<double> (&state)[WIDTH]) {
  constexpr int PLANES = Monoid<REDUCER>::TREE;
  int d = 0;
  for (; blocks >> d & 1; ++d) {
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) state[c] = Monoid<REDUCER>::combine(state_of<PLANES>(groups, d, c), state[c]);
  }
#pragma unroll
  for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) groups[plane][d][c] = state[c].part[plane];
  }
}

// What is left, from the newest to the oldest.
template <int REDUCER, int DEPTH, int WIDTH> LF_DEVICE void fold_states(double (*groups)[DEPTH][WIDTH], u32 blocks, State<double> (&state)[WIDTH]) {
  constexpr int PLANES = Monoid<REDUCER>::TREE;
  bool is_newest = true;
  for (int d = 0; blocks >> d; ++d) {
    if (!(blocks >> d & 1)) continue;
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) {
      const State<double> older = state_of<PLANES>(groups, d, c);
      state[c] = is_newest ? older : Monoid<REDUCER>::combine(older, state[c]);
    }
    is_newest = false;
  }
}
