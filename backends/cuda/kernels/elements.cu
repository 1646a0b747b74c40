// Operations on single elements, before a fold and after it: the twin of what encoders do to rows that need nothing else, each result rounded to the type
// of its rows. A list of them is given by a type with COUNT and at(); src/spec.rs writes the lists.

enum : int { RELU, GELU, GELU_TANH, SILU, TANH, SIGMOID, SCALE, CAST };

struct OpSpec {
  int kind;
  int dtype;   // of what it makes
  u64 number;  // the bits of what a scale multiplies by, as f64
};

// One operation, before its result is rounded.
template <int KIND, class T> LF_DEVICE T operate(T x, u64 number) {
  if constexpr (KIND == RELU) return maximum(x, (T)0.0);
  else if constexpr (KIND == GELU) return lf_gelu(x);
  else if constexpr (KIND == GELU_TANH) return lf_gelu_tanh(x);
  else if constexpr (KIND == SILU) return lf_silu(x);
  else if constexpr (KIND == TANH) return lf_tanh(x);
  else if constexpr (KIND == SIGMOID) return lf_sigmoid(x);
  else if constexpr (KIND == SCALE) return x * (T)double_of(number);
  else return x;
}

// All operations of a list, from the N-th on: over an element in the accumulator's type of its rows.
template <class List, int TYPE, int N = 0> LF_DEVICE auto all_operations(typename Type<TYPE>::Acc x) {
  if constexpr (N == List::COUNT) {
    return x;
  } else {
    constexpr OpSpec OP = List::at(N);
    return all_operations<List, OP.dtype, N + 1>(Type<OP.dtype>::widen(Type<OP.dtype>::nearest(operate<OP.kind>(x, OP.number))));
  }
}
