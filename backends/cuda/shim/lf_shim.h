// Makes a kernel's source C++ that runs on a CPU: included in front of it (-include). One fiber a CUDA thread; a fiber runs until it has to wait for
// others, and who goes on next is the schedule's choice. What runs the fibers is in shim.cpp, which is handed over as a table of functions when a
// kernel is loaded, so that a compiled kernel needs no library.
#pragma once

#define LF_SHIM 1

#include "abi.h"

namespace lf_shim {

static const Api* api;

}  // namespace lf_shim

// What the compiler calls where something is touched that is not aligned to its size, as -fsanitize=alignment asks: a device fails there. Structures as
// libubsan has them, which is not needed then.
#if !defined(__SANITIZE_ADDRESS__)
struct lf_shim_place {
  const char* file;
  unsigned line, column;
};
struct lf_shim_mismatch {
  lf_shim_place place;
  const void* type;
  unsigned char log_of_alignment, kind;
};
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(lf_shim_mismatch* what, unsigned long at) {
  lf_shim::api->not_aligned(reinterpret_cast<const void*>(at), 1u << what->log_of_alignment, what->place.line);
}
#endif

extern "C" __attribute__((visibility("default"))) void lf_shim_bind(const lf_shim::Api* api) { lf_shim::api = api; }

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block is alive on an OS thread at a time.
#define __shared__ static thread_local

#define threadIdx (*lf_shim::api->thread())
#define blockIdx (*lf_shim::api->block())
#define blockDim (*lf_shim::api->block_dim())
#define gridDim (*lf_shim::api->grid_dim())
#define warpSize 32

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

#define LF_DEVICE inline
#define LF_SHARED(name) unsigned char* const name = lf_shim::api->shared()
#define LF_KERNEL(name, Args, count)                                                                                        \
  static void name##_body(const Args& args);                                                                               \
  static void name##_call(const void* argument) { name##_body(*static_cast<const Args*>(argument)); }                      \
  extern "C" __attribute__((visibility("default"))) const lf_shim::Entry name##_entry;                                     \
  extern "C" const lf_shim::Entry name##_entry = {#name, count, sizeof(Args), name##_call};                                \
  static void name##_body(const Args& args)

namespace lf_shim {

template <class T> inline unsigned long long bits(T value) {
  static_assert(sizeof(T) <= 8);
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T> inline T value(unsigned long long bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

enum class Shuffle { Index, Up, Down, Xor };

// As CUDA defines it: lanes are in groups of `width`, a power of two; who asks beyond its group gets its own value back.
template <class T> inline T shuffle(Shuffle how, unsigned mask, T mine, int by, int width, int line) {
  unsigned long long all[32];
  const int lane = static_cast<int>(api->exchange(mask, bits(mine), all, line));
  const int first = lane & ~(width - 1);
  int from = lane;
  switch (how) {
    case Shuffle::Index: from = first + (by & (width - 1)); break;
    case Shuffle::Up: from = lane - by < first ? lane : lane - by; break;
    case Shuffle::Down: from = lane + by >= first + width ? lane : lane + by; break;
    case Shuffle::Xor: from = (lane ^ by) >= first + width ? lane : lane ^ by; break;
  }
  if (!(mask >> from & 1)) api->wrong_lane(static_cast<unsigned>(from), line);
  return value<T>(all[from]);
}

inline unsigned ballot(unsigned mask, bool vote, int line) {
  unsigned long long all[32];
  api->exchange(mask, vote, all, line);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1 && all[lane]) votes |= 1u << lane;
  }
  return votes;
}

inline int width(int w = 32) { return w; }

}  // namespace lf_shim

#define __syncthreads() lf_shim::api->barrier(__LINE__)
#define __syncwarp(...) (void)lf_shim::ballot(lf_shim::or_all(__VA_ARGS__), true, __LINE__)
#define __shfl_sync(mask, v, lane, ...) lf_shim::shuffle(lf_shim::Shuffle::Index, mask, v, static_cast<int>(lane), lf_shim::width(__VA_ARGS__), __LINE__)
#define __shfl_up_sync(mask, v, by, ...) lf_shim::shuffle(lf_shim::Shuffle::Up, mask, v, static_cast<int>(by), lf_shim::width(__VA_ARGS__), __LINE__)
#define __shfl_down_sync(mask, v, by, ...) lf_shim::shuffle(lf_shim::Shuffle::Down, mask, v, static_cast<int>(by), lf_shim::width(__VA_ARGS__), __LINE__)
#define __shfl_xor_sync(mask, v, by, ...) lf_shim::shuffle(lf_shim::Shuffle::Xor, mask, v, static_cast<int>(by), lf_shim::width(__VA_ARGS__), __LINE__)
#define __ballot_sync(mask, vote) lf_shim::ballot(mask, vote, __LINE__)
#define __any_sync(mask, vote) (lf_shim::ballot(mask, vote, __LINE__) != 0)
#define __all_sync(mask, vote) (lf_shim::ballot(mask, !(vote), __LINE__) == 0)
#define __popc __builtin_popcount

namespace lf_shim {
inline unsigned or_all(unsigned mask = 0xffffffffu) { return mask; }
}

template <class T> inline T atomicAdd(T* at, T by) {
  const T before = *at;  // fibers take turns: nothing comes between
  *at = before + by;
  return before;
}
inline unsigned atomicMax(unsigned* at, unsigned by) {
  const unsigned before = *at;
  if (by > before) *at = by;
  return before;
}

// cp.async and its groups: see `bring` in kernels/fold/loads.cu.
template <int BYTES> inline void bring(void* to, const void* from) {
  unsigned char bytes[BYTES];
  __builtin_memcpy(bytes, from, BYTES);
  lf_shim::api->bring(to, bytes, BYTES, from, __LINE__);
}
inline void sent() { lf_shim::api->sent(); }
template <int LATER> inline void arrived() { lf_shim::api->arrived(LATER); }
