// What a compiled kernel and the runtime in shim.cpp know of each other.
#pragma once

namespace lf_shim {

struct Dim {
  unsigned x, y, z;
};

// One launch: the grid, the dynamic shared memory, the one argument.
struct Launch {
  Dim grid, block;
  unsigned shared_bytes;
  const void* argument;
};

// A kernel, as it is found in a compiled module: `<name>_entry`.
struct Entry {
  const char* name;
  unsigned threads;         // __launch_bounds__
  unsigned argument_bytes;  // its one structure
  void (*body)(const void*);
};

// What a kernel asks of the runtime. `line` is where, for what is said when something is wrong.
struct Api {
  const Dim* (*thread)();
  const Dim* (*block)();
  const Dim* (*block_dim)();
  const Dim* (*grid_dim)();
  unsigned char* (*shared)();
  void (*barrier)(int line);
  // All lanes of the mask give a value; 32 of them come back. Returns this lane.
  unsigned (*exchange)(unsigned mask, unsigned long long value, unsigned long long* all, int line);
  void (*wrong_lane)(unsigned lane, int line);
  // Asynchronous copies to shared memory: bytes are read at once and put down when they are waited for.
  void (*bring)(void* to, const void* bytes, unsigned count, const void* from, int line);
  void (*sent)();
  void (*arrived)(unsigned later);
  void (*not_aligned)(const void* at, unsigned to, unsigned line);
};

}  // namespace lf_shim
