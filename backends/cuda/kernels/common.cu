// What all kernels share: types, rounding, the reducers' operations. Plain CUDA C++ without an include; the interface to the host is
// described in src/spec.rs and src/args.rs. shim/lf_shim.h makes the same source run on a CPU: it defines LF_SHIM and what is marked so here.
//
// The arithmetic is that of docs/numerics.md. --fmad=false is part of it: no product is fused into a sum.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifndef LF_SHIM
#define LF_DEVICE __device__ __forceinline__
#define LF_KERNEL(name, Args, threads) extern "C" __global__ void __launch_bounds__(threads, 2) name(const Args args)
#define LF_SHARED(name) extern __shared__ __align__(16) u8 name[]
#endif

// Codes, as src/spec.rs has them.
enum : int { F32, F64, F16, BF16, U8, U16, U32, I32, I64 };
enum : int { SUM, MEAN, MAX, MIN, PROD, VAR, STD, L1, L2, LOG_SUM_EXP, SOFT_MAX, FIRST_ROW, LAST_ROW, ROW_COUNT, ARG_MAX, ARG_MIN, CUSTOM };

// ---------------------------------------------------------------------------------------------------------------- bits

#ifndef LF_SHIM
LF_DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
LF_DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
LF_DEVICE u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
LF_DEVICE double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
#else
LF_DEVICE u32 bits_of(float x) { u32 bits; __builtin_memcpy(&bits, &x, 4); return bits; }
LF_DEVICE float float_of(u32 bits) { float x; __builtin_memcpy(&x, &bits, 4); return x; }
LF_DEVICE u64 bits_of(double x) { u64 bits; __builtin_memcpy(&bits, &x, 8); return bits; }
LF_DEVICE double double_of(u64 bits) { double x; __builtin_memcpy(&x, &bits, 8); return x; }
#endif

// The 16-bit float nearest to a number that is no NaN, ties to even, rounded once: through f32 it would be rounded twice.
template <int EXPONENT_BITS, int FRACTION_BITS>
LF_DEVICE u16 round_to_16_bits(double x) {
  const u64 bits = bits_of(x);
  const u32 sign = (u32)(bits >> 63) << 15;
  const int bias = (1 << (EXPONENT_BITS - 1)) - 1;
  const u32 infinity = ((1u << EXPONENT_BITS) - 1) << FRACTION_BITS;
  const int exponent = (int)((bits >> 52) & 0x7ff) - 1023;
  if (exponent > bias) return (u16)(sign | infinity);
  // Below half of the smallest subnormal, and f64's own subnormals.
  if (exponent < 1 - bias - FRACTION_BITS - 1) return (u16)sign;
  const u64 significand = (bits & 0xfffffffffffffull) | 1ull << 52;
  // A subnormal of the target keeps fewer bits.
  const int extra = exponent < 1 - bias ? 1 - bias - exponent : 0;
  const int shift = 52 - FRACTION_BITS + extra;
  const u32 kept = (u32)(significand >> shift);
  const u64 rest = significand & ((1ull << shift) - 1);
  const u64 half = 1ull << (shift - 1);
  const u32 rounded = kept + (rest > half || (rest == half && (kept & 1)) ? 1u : 0u);
  // A normal number's leading one is added into the exponent's field, and so is a carry.
  const u32 field = extra ? 0u : (u32)(exponent + bias - 1) << FRACTION_BITS;
  const u32 result = field + rounded;
  return (u16)(sign | (result < infinity ? result : infinity));
}

// --------------------------------------------------------------------------------------------------------------- types

// Of an element type: what it is stored as, what its rows are accumulated in, and the ways between.
template <int TYPE> struct Type;

template <> struct Type<F32> {
  typedef float Raw;
  typedef float Acc;
  static LF_DEVICE Acc widen(Raw x) { return x; }
  static LF_DEVICE Raw nearest(float x) { return x != x ? float_of(0x7fc00000u) : x; }
  static LF_DEVICE Raw nearest(double x) { return x != x ? float_of(0x7fc00000u) : (float)x; }
};

template <> struct Type<F64> {
  typedef double Raw;
  typedef double Acc;
  static LF_DEVICE Acc widen(Raw x) { return x; }
  static LF_DEVICE Raw nearest(float x) { return nearest((double)x); }
  static LF_DEVICE Raw nearest(double x) { return x != x ? double_of(0x7ff8000000000000ull) : x; }
};

template <> struct Type<F16> {
  typedef u16 Raw;
  typedef float Acc;
  static LF_DEVICE Acc widen(Raw x) {
#ifndef LF_SHIM
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
#else
    const u32 sign = (u32)(x & 0x8000) << 16, exponent = (x >> 10) & 31, fraction = x & 0x3ff;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = (float)fraction * 5.9604644775390625e-8f;  // 2^-24, exactly
    return float_of(sign | bits_of(magnitude));
#endif
  }
  static LF_DEVICE Raw nearest(float x) {
    if (x != x) return 0x7e00;
#ifndef LF_SHIM
    u16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(x));
    return narrow;
#else
    return round_to_16_bits<5, 10>((double)x);
#endif
  }
  static LF_DEVICE Raw nearest(double x) { return x != x ? (u16)0x7e00 : round_to_16_bits<5, 10>(x); }
};

template <> struct Type<BF16> {
  typedef u16 Raw;
  typedef float Acc;
  static LF_DEVICE Acc widen(Raw x) { return float_of((u32)x << 16); }
  static LF_DEVICE Raw nearest(float x) {
    const u32 bits = bits_of(x);
    return x != x ? (u16)0x7fc0 : (u16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
  static LF_DEVICE Raw nearest(double x) { return x != x ? (u16)0x7fc0 : round_to_16_bits<8, 7>(x); }
};

// Positions: whole numbers, exact in what they come in.
template <> struct Type<I64> {
  typedef i64 Raw;
  typedef double Acc;
  static LF_DEVICE Acc widen(Raw x) { return (double)x; }
  static LF_DEVICE Raw nearest(float x) { return (i64)x; }
  static LF_DEVICE Raw nearest(double x) { return (i64)x; }
};

// One float of a type that is known at run time, in an accumulator that it widens to.
template <class Acc> LF_DEVICE Acc load_float(const u8* at, u32 type) {
  switch (type) {
    case F32: return (Acc) * (const float*)at;
    case F64: return (Acc) * (const double*)at;
    case F16: return (Acc)Type<F16>::widen(*(const u16*)at);
    default: return (Acc)Type<BF16>::widen(*(const u16*)at);
  }
}

// One number, rounded to a type that is known at run time.
template <class Number> LF_DEVICE void store_float(u8* at, u32 type, Number x) {
  switch (type) {
    case F32: *(float*)at = Type<F32>::nearest(x); break;
    case F64: *(double*)at = Type<F64>::nearest(x); break;
    case F16: *(u16*)at = Type<F16>::nearest(x); break;
    case I64: *(i64*)at = Type<I64>::nearest(x); break;
    default: *(u16*)at = Type<BF16>::nearest(x); break;
  }
}

// An id: checked by the host, so never negative.
LF_DEVICE u64 load_id(const u8* at, u32 bytes) {
  switch (bytes) {
    case 1: return *at;
    case 2: return *(const u16*)at;
    case 4: return *(const u32*)at;
    default: return *(const u64*)at;
  }
}

// ------------------------------------------------------------------------------------------------------------ reducers

LF_DEVICE float with_bits(float, u32 bits) { return float_of(bits); }
LF_DEVICE double with_bits(double, u64 bits) { return double_of(bits); }

// IEEE 754-2019 maximum and minimum: a NaN wins, -0 < +0. Equal numbers have equal bits, but for the two zeros.
template <class T> LF_DEVICE T maximum(T a, T b) {
  T larger = a > b ? a : b;
  larger = a == b ? with_bits(a, bits_of(a) & bits_of(b)) : larger;
  return a != a ? a : larger;
}

template <class T> LF_DEVICE T minimum(T a, T b) {
  T smaller = a < b ? a : b;
  smaller = a == b ? with_bits(a, bits_of(a) | bits_of(b)) : smaller;
  return a != a ? a : smaller;
}

// What an accumulator starts from: equals starting with the first row.
template <int REDUCER, class T> LF_DEVICE T identity() {
  switch (REDUCER) {
    case MAX: return (T)double_of(0xfff0000000000000ull);
    case MIN: return (T)double_of(0x7ff0000000000000ull);
    case PROD: return (T)1;
    default: return (T)-0.0;
  }
}

// One more row, or the newer of two neighbouring groups of blocks.
template <int REDUCER, class T> LF_DEVICE T combine(T older, T newer) {
  switch (REDUCER) {
    case MAX: return maximum(older, newer);
    case MIN: return minimum(older, newer);
    case PROD: return older * newer;
    default: return older + newer;
  }
}

// ----------------------------------------------------------------------------------------------------- arguments of a fold

constexpr int MOST_STAGES = 8;
constexpr int MOST_REDUCTIONS = 16;

struct ReductionArgs {
  const u8* weights;
  i64 weight_stride;
  u8* out;
  i64 out_row_stride, out_column_stride;
  double* partials;
  double* weight_partials;
  double fill;
  u32 weight_type, vector_store, ddof, reserved;
};

struct StageArgs {
  const void* offsets;
};

struct FoldArgs {
  const u8* values;
  i64 row_stride, column_stride;
  const u8* ids;
  i64 id_stride;
  const void* runs;
  const void* shifts;
  u32 run_count, id_bytes, features, lanes, slabs, piece_blocks;
  StageArgs stages[MOST_STAGES];
  ReductionArgs reductions[MOST_REDUCTIONS];
};

// ------------------------------------------------------------------------------------- arguments of the second pass

constexpr int FINISH_THREADS = 256;

struct FinishGroup {
  u64 first, to, rows;
  u32 count, last;
};

struct FinishArgs {
  const double* source;
  const double* weight_source;
  double* target;
  double* weight_target;
  const FinishGroup* groups;
  u8* out;
  i64 out_row_stride, out_column_stride;
  u32 features, reducer, out_type, ddof;
};
