// What the fake driver asks of the runtime in shim.cpp.
#pragma once
#include <cstdint>

#include "abi.h"

namespace lf_shim {

// Who goes on next: threads and blocks in order, in the opposite order, or in an order that a seed gives, anew each time.
struct Schedule {
  enum Kind : unsigned { Forward, Reverse, Random } kind;
  uint64_t seed;
};

const Api* api_table();

// Of this OS thread; else LF_SHIM_SCHEDULE says (`forward`, `reverse`, `random:SEED`).
void set_schedule(Schedule schedule);

// Runs a launch. Not 0 where it failed: last_error says why.
int run(const Entry* entry, const Launch& launch);
const char* last_error();

}  // namespace lf_shim
