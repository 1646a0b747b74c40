// Runs kernels on the CPU: one fiber a CUDA thread, one block after the other.
//
// A launch fails, with words for lf_shim_error, where
//   - a thread ends while others of its block wait at a barrier, or threads wait at different ones (thread and line are named);
//   - a lane that a warp operation names does not come to it, or a lane asks another that takes no part;
//   - bytes behind the shared memory were written;
//   - an asynchronous copy is not aligned, or leaves the shared memory;
//   - something is read or written across its alignment;
//   - the block or the shared memory is larger than a device takes.
//
// Shared memory is poisoned before each block. An asynchronous copy poisons its target until it is waited for.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <sys/mman.h>

#include "shim.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
// Of AddressSanitizer, where it is there.
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size) __attribute__((weak));
void __asan_poison_memory_region(const volatile void* at, size_t size) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void* at, size_t size) __attribute__((weak));
}

namespace lf_shim {
namespace {

constexpr size_t STACK = 256 << 10;
constexpr size_t GUARD = 8 << 10;  // bytes behind the shared memory: a row of all threads, and more
constexpr unsigned char POISON = 0xCD, SENTINEL = 0x5E, IN_FLIGHT = 0xA5;

enum class State { Runnable, AtBarrier, InWarp, Done };

struct Copy {
  unsigned char* to;
  unsigned count;
  unsigned char bytes[16];
};

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  void* asan;
  Dim thread;
  unsigned index;
  State state;
  int line;
  unsigned mask;
  unsigned long long value;
  unsigned long long all[32];
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // where each group of copies ends
  size_t arrived;
};

struct Block {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
#if defined(__x86_64__)
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
  void* scheduler_asan = nullptr;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_size = 0;
  unsigned char* stacks = nullptr;
  size_t stack_count = 0;
  unsigned char* shared = nullptr;
  unsigned shared_bytes = 0;
  Dim block{}, block_dim{}, grid_dim{};
  const Entry* entry = nullptr;
  const void* argument = nullptr;
  uint64_t random = 1;
  std::string error;
};

thread_local Block here;
thread_local Schedule own_schedule;
thread_local bool has_own_schedule = false;

uint64_t next_random(uint64_t& state) {
  state += 0x9e3779b97f4a7c15ull;
  uint64_t x = state;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

void order(std::vector<unsigned>& items, Schedule::Kind kind, uint64_t& random) {
  const size_t n = items.size();
  for (size_t i = 0; i < n; ++i) items[i] = static_cast<unsigned>(kind == Schedule::Reverse ? n - 1 - i : i);
  if (kind == Schedule::Random) {
    for (size_t i = n; i > 1; --i) std::swap(items[i - 1], items[next_random(random) % i]);
  }
}

// ------------------------------------------------------------------------------------------------------------- fibers

#if defined(__x86_64__)
extern "C" void lf_shim_switch(void** save, void* to);
asm(R"(
.text
.local lf_shim_switch
.type lf_shim_switch, @function
lf_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lf_shim_switch, .-lf_shim_switch
)");
#endif

unsigned char* stack_of(const Fiber& fiber) { return here.stacks + fiber.index * STACK; }

// Back to the scheduler, until it comes here again.
void wait(State state) {
  Fiber& self = *here.current;
  self.state = state;
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(state == State::Done ? nullptr : &self.asan, here.scheduler_bottom, here.scheduler_size);
  }
#if defined(__x86_64__)
  lf_shim_switch(&self.stack_pointer, here.scheduler);
#else
  swapcontext(&self.context, &here.scheduler);
#endif
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(self.asan, nullptr, nullptr);
}

void boot() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &here.scheduler_bottom, &here.scheduler_size);
  here.entry->body(here.argument);
  wait(State::Done);
  __builtin_trap();
}

void prepare(Fiber& fiber) {
  unsigned char* stack = stack_of(fiber);
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack, STACK);
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + STACK);
  *--top = nullptr;  // where boot would return to
  *--top = reinterpret_cast<void*>(boot);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, boot, 0);
#endif
}

void resume(Fiber& fiber) {
  here.current = &fiber;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&here.scheduler_asan, stack_of(fiber), STACK);
#if defined(__x86_64__)
  lf_shim_switch(&here.scheduler, fiber.stack_pointer);
#else
  swapcontext(&here.scheduler, &fiber.context);
#endif
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(here.scheduler_asan, nullptr, nullptr);
}

// ------------------------------------------------------------------------------------------------------------- errors

std::string place() {
  char text[160];
  snprintf(text, sizeof text, " in block (%u, %u, %u) of %s", here.block.x, here.block.y, here.block.z, here.entry->name);
  return text;
}

void fail(const std::string& what) {
  if (here.error.empty()) here.error = what + place();
}

// From inside a fiber: nothing of it runs any more.
[[noreturn]] void fail_here(const std::string& what) {
  fail(what);
  wait(State::Done);
  abort();
}

std::string waiting() {
  std::string text;
  int told = 0;
  for (const Fiber& fiber : here.fibers) {
    if (fiber.state != State::AtBarrier && fiber.state != State::InWarp) continue;
    if (++told > 8) return text + "; …";
    char one[120];
    if (fiber.state == State::AtBarrier) snprintf(one, sizeof one, "; thread %u waits at the barrier in line %d", fiber.index, fiber.line);
    else snprintf(one, sizeof one, "; thread %u waits in line %d for lanes %08x", fiber.index, fiber.line, fiber.mask);
    text += one;
  }
  return text;
}

// --------------------------------------------------------------------------------------------------- what kernels ask

const Dim* get_thread() { return &here.current->thread; }
const Dim* get_block() { return &here.block; }
const Dim* get_block_dim() { return &here.block_dim; }
const Dim* get_grid_dim() { return &here.grid_dim; }
unsigned char* get_shared() { return here.shared; }

void barrier(int line) {
  here.current->line = line;
  wait(State::AtBarrier);
}

unsigned exchange(unsigned mask, unsigned long long value, unsigned long long* all, int line) {
  Fiber& self = *here.current;
  const unsigned lane = self.index % 32;
  if (!(mask >> lane & 1)) fail_here("thread " + std::to_string(self.index) + " is not in the mask that it gives in line " + std::to_string(line));
  self.mask = mask;
  self.value = value;
  self.line = line;
  wait(State::InWarp);
  memcpy(all, self.all, sizeof self.all);
  return lane;
}

void wrong_lane(unsigned lane, int line) {
  fail_here("thread " + std::to_string(here.current->index) + " asks lane " + std::to_string(lane) + ", which takes no part, in line " + std::to_string(line));
}

void bring(void* to, const void* bytes, unsigned count, const void* from, int line) {
  Fiber& self = *here.current;
  unsigned char* at = static_cast<unsigned char*>(to);
  const bool inside = at >= here.shared && at + count <= here.shared + here.shared_bytes;
  const bool aligned = reinterpret_cast<uintptr_t>(from) % count == 0 && reinterpret_cast<uintptr_t>(to) % count == 0;
  if (!inside || !aligned) {
    fail_here("thread " + std::to_string(self.index) + (aligned ? " brings bytes to where no shared memory is" : " brings bytes that are not aligned") +
              ", in line " + std::to_string(line));
  }
  Copy copy{at, count, {}};
  memcpy(copy.bytes, bytes, count);
  memset(at, IN_FLIGHT, count);
  self.copies.push_back(copy);
}

void sent() { here.current->groups.push_back(here.current->copies.size()); }

void arrived(unsigned later) {
  Fiber& self = *here.current;
  if (self.groups.size() <= later) return;
  const size_t end = self.groups[self.groups.size() - 1 - later];
  for (; self.arrived < end; ++self.arrived) memcpy(self.copies[self.arrived].to, self.copies[self.arrived].bytes, self.copies[self.arrived].count);
  // Nothing is kept of what has arrived.
  if (self.arrived >= 1024) {
    self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<long>(self.arrived));
    for (size_t& group : self.groups) group = group > self.arrived ? group - self.arrived : 0;
    self.groups.erase(self.groups.begin(), self.groups.end() - later - 1);
    self.arrived = 0;
  }
}

void not_aligned(const void* at, unsigned to, unsigned line) {
  char text[120];
  snprintf(text, sizeof text, "thread %u touches %p, which is not aligned to %u bytes, in line %u", here.current->index, at, to, line);
  fail_here(text);
}

const Api API = {get_thread, get_block, get_block_dim, get_grid_dim, get_shared, barrier, exchange, wrong_lane, bring, sent, arrived, not_aligned};

// ---------------------------------------------------------------------------------------------------------- schedules

// Lets the lanes of warps go whose masks are complete. Whether any did.
bool release_warps() {
  bool any = false;
  const size_t count = here.fibers.size();
  for (size_t first = 0; first < count; first += 32) {
    for (size_t index = first; index < first + 32 && index < count; ++index) {
      Fiber& fiber = here.fibers[index];
      if (fiber.state != State::InWarp) continue;
      bool complete = true;
      for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(fiber.mask >> lane & 1)) continue;
        if (first + lane >= count) { complete = false; continue; }
        const Fiber& other = here.fibers[first + lane];
        complete = complete && other.state == State::InWarp && other.mask == fiber.mask && other.line == fiber.line;
      }
      if (!complete) continue;
      any = true;
      const unsigned mask = fiber.mask;
      unsigned long long all[32] = {};
      for (unsigned lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1) all[lane] = here.fibers[first + lane].value;
      }
      for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        memcpy(here.fibers[first + lane].all, all, sizeof all);
        here.fibers[first + lane].state = State::Runnable;
      }
    }
  }
  return any;
}

// Lets all go where all have come to the same barrier. Whether they had.
bool release_barrier() {
  int line = -1;
  for (const Fiber& fiber : here.fibers) {
    if (fiber.state != State::AtBarrier || (line >= 0 && fiber.line != line)) return false;
    line = fiber.line;
  }
  for (Fiber& fiber : here.fibers) fiber.state = State::Runnable;
  return true;
}

void run_block(Schedule::Kind kind, std::vector<unsigned>& turns) {
  if (here.shared) memset(here.shared, POISON, here.shared_bytes);
  for (Fiber& fiber : here.fibers) {
    fiber.state = State::Runnable;
    fiber.copies.clear();
    fiber.groups.clear();
    fiber.arrived = 0;
    prepare(fiber);
  }
  for (;;) {
    order(turns, kind, here.random);
    bool ran = false;
    for (unsigned turn : turns) {
      if (here.fibers[turn].state != State::Runnable) continue;
      ran = true;
      resume(here.fibers[turn]);
      if (!here.error.empty()) return;
    }
    const bool released = release_warps() | release_barrier();
    size_t done = 0;
    for (const Fiber& fiber : here.fibers) done += fiber.state == State::Done;
    if (done == here.fibers.size()) break;
    if (!ran && !released) return fail(std::to_string(done) + " threads have ended, and the others wait for what will not come" + waiting());
  }
  const unsigned char* const behind = here.shared + here.shared_bytes;
  if (behind[0] != SENTINEL || memcmp(behind, behind + 1, GUARD - 1)) return fail("bytes behind the shared memory were written");
}

Schedule schedule_of_environment() {
  Schedule schedule{Schedule::Forward, 1};
  const char* text = getenv("LF_SHIM_SCHEDULE");
  if (!text) return schedule;
  if (!strncmp(text, "reverse", 7)) schedule.kind = Schedule::Reverse;
  if (!strncmp(text, "random", 6)) schedule.kind = Schedule::Random;
  if (const char* seed = strchr(text, ':')) schedule.seed = strtoull(seed + 1, nullptr, 0);
  return schedule;
}

}  // namespace

const Api* api_table() { return &API; }

void set_schedule(Schedule schedule) {
  own_schedule = schedule;
  has_own_schedule = true;
}

int run(const Entry* entry, const Launch& launch) {
  static const Schedule environment = schedule_of_environment();
  const Schedule schedule = has_own_schedule ? own_schedule : environment;
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  here.error.clear();
  here.entry = entry;
  here.argument = launch.argument;
  here.block_dim = launch.block;
  here.grid_dim = launch.grid;
  here.block = {0, 0, 0};
  if (threads == 0 || threads > entry->threads || !launch.grid.x || !launch.grid.y || !launch.grid.z) {
    fail("a launch of " + std::to_string(threads) + " threads a block, of up to " + std::to_string(entry->threads));
    return 1;
  }
  if (launch.shared_bytes > 227 * 1024) {
    fail("a launch with " + std::to_string(launch.shared_bytes) + " bytes of shared memory");
    return 1;
  }
  if (here.stack_count < threads) {
    if (here.stacks) munmap(here.stacks, here.stack_count * STACK);
    void* stacks = mmap(nullptr, threads * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    here.stacks = static_cast<unsigned char*>(stacks);
    here.stack_count = threads;
  }
  here.fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    here.fibers[i].index = i;
    here.fibers[i].thread = {i % launch.block.x, i / launch.block.x % launch.block.y, i / (launch.block.x * launch.block.y)};
  }
  void* shared = nullptr;
  if (posix_memalign(&shared, 256, launch.shared_bytes + GUARD)) abort();
  here.shared = static_cast<unsigned char*>(shared);
  here.shared_bytes = launch.shared_bytes;
  memset(here.shared + here.shared_bytes, SENTINEL, GUARD);
  here.random = schedule.seed;
  const uint64_t blocks = static_cast<uint64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::vector<unsigned> turns(threads), block_turns(static_cast<size_t>(blocks));
  order(block_turns, schedule.kind, here.random);
  for (unsigned turn : block_turns) {
    here.block = {turn % launch.grid.x, turn / launch.grid.x % launch.grid.y, turn / (launch.grid.x * launch.grid.y)};
    run_block(schedule.kind, turns);
    if (!here.error.empty()) break;
  }
  free(shared);
  here.shared = nullptr;
  return here.error.empty() ? 0 : 1;
}

const char* last_error() { return here.error.c_str(); }

}  // namespace lf_shim

// For tests that run kernels without a driver.
extern "C" {
__attribute__((visibility("default"))) const void* lf_shim_api() { return lf_shim::api_table(); }
__attribute__((visibility("default"))) int lf_shim_run(const lf_shim::Entry* entry, const lf_shim::Launch* launch) { return lf_shim::run(entry, *launch); }
__attribute__((visibility("default"))) void lf_shim_schedule(unsigned kind, unsigned long long seed) {
  lf_shim::set_schedule({static_cast<lf_shim::Schedule::Kind>(kind), seed});
}
__attribute__((visibility("default"))) const char* lf_shim_error() { return lf_shim::last_error(); }
}
