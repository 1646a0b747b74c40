// What the files of the fake driver share: its objects, and the state of all of it. See fake.cpp.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../shim.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef int Result;
typedef unsigned long long Address;

enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  STUB_LIBRARY = 34,
  DEVICE_UNAVAILABLE = 46,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY = 209,
  UNSUPPORTED_PTX = 222,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  OUT_OF_RESOURCES = 701,
  CONTEXT_IS_DESTROYED = 709,
  MISALIGNED = 716,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  SYSTEM_DRIVER_MISMATCH = 803,
  COMPAT_NOT_SUPPORTED = 804,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  CAPTURE_WRONG_THREAD = 908,
  UNKNOWN = 999,
};

namespace fake {

constexpr int MOST_DEVICES = 8;

// The primary context of a device. It is there while somebody retains it, and what was made in it goes with it.
struct Context {
  int device = 0;
  int retained = 0;
  Result broken = SUCCESS;  // once a kernel went wrong for good, every call says so
};

enum class Kind { Stream, Event, Module, Function, Graph, Executable };

// Whatever a handle stands for. Objects are never freed: a handle that was destroyed is known as such for ever.
struct Object {
  Kind kind;
  Context* context;
  std::atomic<bool> alive{true};
  Object(Kind kind, Context* context) : kind(kind), context(context) {}
};

struct Event;

// One thing to be done by a stream.
struct Item {
  std::function<Result()> work;
  Event* records = nullptr;
};

struct Capture {
  unsigned mode;  // 0 global, 1 of its thread, 2 relaxed
  std::thread::id thread;
  bool blocking;
  std::atomic<bool> invalid{false};
};

struct Stream : Object {
  static constexpr Kind KIND = Kind::Stream;
  std::mutex lock;
  std::vector<Item> queue, captured;
  std::shared_ptr<Capture> capture;
  bool blocking;  // waits for the default stream, and that for it
  Result failed = SUCCESS;
  Stream(Context* context, bool blocking) : Object(KIND, context), blocking(blocking) {}
};

struct Event : Object {
  static constexpr Kind KIND = Kind::Event;
  enum State { Never, Queued, Passed, Captured };
  std::atomic<State> state{Never};
  bool timed;
  double milliseconds = 0.0;
  std::atomic<Stream*> stream{nullptr};
  Event(Context* context, bool timed) : Object(KIND, context), timed(timed) {}
};

struct Graph : Object {
  static constexpr Kind KIND = Kind::Graph;
  std::vector<Item> items;
  Graph(Context* context, std::vector<Item> items) : Object(KIND, context), items(std::move(items)) {}
};

struct Executable : Object {
  static constexpr Kind KIND = Kind::Executable;
  std::vector<Item> items;
  Executable(Context* context, std::vector<Item> items) : Object(KIND, context), items(std::move(items)) {}
};

struct Module : Object {
  static constexpr Kind KIND = Kind::Module;
  void* library;
  Module(Context* context, void* library) : Object(KIND, context), library(library) {}
};

struct Function : Object {
  static constexpr Kind KIND = Kind::Function;
  Module* module;
  const lf_shim::Entry* entry;
  std::atomic<int> most_shared{48 * 1024};
  Function(Module* module, const lf_shim::Entry* entry) : Object(KIND, module->context), module(module), entry(entry) {}
};

struct Allocation {
  unsigned char* start;  // of the guard before it
  size_t bytes;
  Context* context;
};

struct State {
  std::mutex lock;
  std::map<Address, Allocation> device, pinned;
  std::vector<Allocation> freed;  // kept aside for a while, and looked at
  size_t freed_bytes = 0;
  size_t looked_at = 0;  // of what was freed longer ago: which is next
  std::map<std::string, long long> settings, counts;
  std::set<const Object*> objects;
  std::vector<std::shared_ptr<Capture>> captures;
  Context contexts[MOST_DEVICES];
  Stream first{nullptr, true};  // the default stream
  bool started = false;

  State();
  long long setting(const char* name);
  // Whether the n-th time, counted from when it was set, is now.
  bool now(const char* name);
};

State& state();

// Bytes of shared memory that a block may have, if it asks for them: by the device's capability. The lock is held.
int most_shared();

// The context that is current on this thread, of those that are there.
Result current(Context** context);
// The same, where a capture may forbid the call: then it is refused, and the capture is lost.
Result current_outside_of_captures(Context** context);

Context* current_or_null();
void set_current(Context* context);

// The object of a handle: alive, of its kind, and of this context.
template <class T> Result known(void* handle, Context* context, T** object);
template <> Result known(void* handle, Context* context, Stream** object);
bool is_known(const Object* object, Kind kind);

template <class T> Result known(void* handle, Context* context, T** object) {
  Object* found = static_cast<Object*>(handle);
  if (!is_known(found, T::KIND) || found->context != context) return INVALID_HANDLE;
  *object = static_cast<T*>(found);
  return SUCCESS;
}

// Makes an object known.
template <class T, class... Parts> void* made(Parts... parts) {
  T* object = new T(parts...);
  std::lock_guard<std::mutex> hold(state().lock);
  state().objects.insert(object);
  return static_cast<Object*>(object);
}

// Puts an item at the end of a stream, or into the graph that it is captured for.
Result enqueue(Stream* stream, Item item);
// Does the work of a stream, up to an event's last record where one is given. What failed is told to who waits next.
void work_off(Stream* stream, const Event* until = nullptr);
// The same, for somebody who waits.
Result finish(Stream* stream, const Event* until = nullptr);
// All that a context's streams have to do.
void work_off_all(Context* context);

// Device memory: whether all of a range lies inside one allocation. The lock is held.
bool inside(const std::map<Address, Allocation>& all, Address at, size_t bytes);
// What was written around allocations, or into freed ones: nothing, or what to say. The lock is held.
bool damaged(std::string* what);
// Frees whatever a context still has, and tells how many objects that were.
size_t destroy(Context* context);

double now_in_milliseconds();

}  // namespace fake
