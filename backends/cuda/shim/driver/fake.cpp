// A libcuda for tests: the functions that the backend calls, over host memory; kernels are run by shim.cpp. The backend does not know.
//
// What a real driver lets pass for a while, this one does not:
//   - Work on a stream is queued, and done only when somebody waits for it, no further than they wait: who reads too early finds poison.
//   - Device memory is poisoned when it is taken. Bytes before and behind it are looked at after each launch and when it is given back. What is
//     freed is poisoned again, kept aside, and looked at too.
//   - Copies and fills have to lie inside one allocation, when they are asked for and when they are done. A copy out of pinned memory reads it late; one
//     to the host poisons its target until it is done.
//   - A graph holds what was captured, and is replayed. During a capture, what a capture forbids is refused, and ends it.
// And what a real driver refuses, it refuses: calls without a current context, handles that were destroyed, or belong to another context, kernels of modules
// that were unloaded, times between events that did not pass, code for other devices, grids and shared memory beyond a device's limits.
//
// Faults come by lf_fake_set(name, value), or by LF_FAKE=name=value,name=value:
//   devices   how many there are                        driver    its version, 1000 · major + 10 · minor
//   init      what cuInit returns                       memory    bytes of device memory
//   oom       the n-th allocation from now fails        launch    the n-th launch from now is refused
//   crash     the n-th kernel run from now fails, which whoever waits for it is told
//   broken    the n-th kernel run from now fails as on a real device: every later call says so, until it is set to 0, which empties the context
//   module    the n-th load of kernels from now is refused
//   retain    what cuDevicePrimaryCtxRetain returns     pinned    the n-th pinned allocation from now fails
//   capability   10 · major + minor
// and lf_fake_get(name) counts: allocations (alive), bytes (alive), pinned (alive), objects (streams, events, modules and graphs alive), launches, graphs
// (launched), copies, jitted (modules made of PTX), damaged (bytes written where none may be), leaked (what was left in a context that went).
#include "fake.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fake {

State::State() {
  settings = {{"devices", 1}, {"driver", 13000}, {"memory", 8ll << 30}, {"capability", 90}};
  for (int device = 0; device < MOST_DEVICES; ++device) contexts[device].device = device;
  objects.insert(&first);
  const char* text = getenv("LF_FAKE");
  const std::string all = text ? text : "";
  for (size_t at = 0; at < all.size();) {
    size_t end = all.find(',', at);
    if (end == std::string::npos) end = all.size();
    const std::string one = all.substr(at, end - at);
    const size_t equal = one.find('=');
    if (equal != std::string::npos) settings[one.substr(0, equal)] = atoll(one.c_str() + equal + 1);
    at = end + 1;
  }
}

long long State::setting(const char* name) {
  auto found = settings.find(name);
  return found == settings.end() ? 0 : found->second;
}

bool State::now(const char* name) {
  auto found = settings.find(name);
  if (found == settings.end() || found->second <= 0) return false;
  return --found->second == 0;
}

State& state() {
  static State* all = new State;  // outlives whatever is dropped at the end of the process
  return *all;
}

double now_in_milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// ------------------------------------------------------------------------------------------------------------ contexts

namespace {
thread_local Context* entered = nullptr;
}

Context* current_or_null() { return entered; }
void set_current(Context* context) { entered = context; }

Result current(Context** context) {
  std::lock_guard<std::mutex> hold(state().lock);
  if (!state().started) return NOT_INITIALIZED;
  if (!entered) return INVALID_CONTEXT;
  if (!entered->retained) return CONTEXT_IS_DESTROYED;
  *context = entered;
  return entered->broken;
}

Result current_outside_of_captures(Context** context) {
  if (const Result result = current(context)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  bool forbidden = false;
  for (auto& capture : state().captures) {
    if (capture->mode != 0 && !(capture->mode == 1 && capture->thread == std::this_thread::get_id())) continue;
    capture->invalid = forbidden = true;
  }
  return forbidden ? CAPTURE_UNSUPPORTED : SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------- objects

bool is_known(const Object* object, Kind kind) {
  std::lock_guard<std::mutex> hold(state().lock);
  return state().objects.count(object) && object->alive && object->kind == kind;
}

template <> Result known(void* handle, Context* context, Stream** object) {
  // Null, and the handles of the default stream, which the one of each thread stands for too.
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return *object = &state().first, SUCCESS;
  Object* found = static_cast<Object*>(handle);
  if (!is_known(found, Kind::Stream) || found->context != context) return INVALID_HANDLE;
  return *object = static_cast<Stream*>(found), SUCCESS;
}

size_t destroy(Context* context) {
  std::vector<Object*> left;
  std::vector<Address> memory, pinned;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    for (const Object* object : state().objects) {
      // Functions go with their modules.
      if (object->alive && object->context == context && object->kind != Kind::Function) left.push_back(const_cast<Object*>(object));
    }
    for (auto& one : state().device) {
      if (one.second.context == context) memory.push_back(one.first);
    }
    for (auto& one : state().pinned) {
      if (one.second.context == context) pinned.push_back(one.first);
    }
    for (Object* object : left) object->alive = false;
    for (const Address at : memory) state().device.erase(at);
    for (const Address at : pinned) state().pinned.erase(at);
  }
  // Out of a broken context nothing could be given back.
  const size_t count = context->broken ? 0 : left.size() + memory.size() + pinned.size();
  if (count) fprintf(stderr, "fake driver: a context went with %zu objects, %zu allocations and %zu pinned ones\n", left.size(), memory.size(), pinned.size());
  return count;
}

// ------------------------------------------------------------------------------------------------------------- streams

namespace {

// Work on the default stream waits for all streams but those that said no, and they for it.
Result order_with_default(Stream* stream) {
  if (!stream->blocking) return SUCCESS;
  if (stream != &state().first) return work_off(&state().first), SUCCESS;
  std::vector<Stream*> others;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    for (auto& capture : state().captures) {
      if (!capture->blocking || capture->mode == 2) continue;
      capture->invalid = true;
      return CAPTURE_IMPLICIT;
    }
    for (const Object* object : state().objects) {
      if (object->kind != Kind::Stream || !object->alive || object == &state().first) continue;
      Stream* other = static_cast<Stream*>(const_cast<Object*>(object));
      if (other->blocking) others.push_back(other);
    }
  }
  for (Stream* other : others) work_off(other);
  return SUCCESS;
}

void work_off_locked(Stream* stream, const Event* until) {
  size_t end = stream->queue.size();
  if (until) {
    while (end && stream->queue[end - 1].records != until) --end;
  }
  std::vector<Item> now(std::make_move_iterator(stream->queue.begin()), std::make_move_iterator(stream->queue.begin() + static_cast<long>(end)));
  stream->queue.erase(stream->queue.begin(), stream->queue.begin() + static_cast<long>(end));
  for (Item& item : now) {
    const Result result = item.work();
    if (result != SUCCESS && stream->failed == SUCCESS) stream->failed = result;
  }
}

}  // namespace

Result enqueue(Stream* stream, Item item) {
  {
    std::lock_guard<std::mutex> hold(stream->lock);
    if (stream->capture) {
      if (stream->capture->invalid) return CAPTURE_INVALIDATED;
      stream->captured.push_back(std::move(item));
      return SUCCESS;
    }
  }
  if (const Result result = order_with_default(stream)) return result;
  std::lock_guard<std::mutex> hold(stream->lock);
  stream->queue.push_back(std::move(item));
  return SUCCESS;
}

void work_off(Stream* stream, const Event* until) {
  std::lock_guard<std::mutex> hold(stream->lock);
  work_off_locked(stream, until);
}

Result finish(Stream* stream, const Event* until) {
  std::lock_guard<std::mutex> hold(stream->lock);
  if (stream->capture) {
    stream->capture->invalid = true;
    return CAPTURE_UNSUPPORTED;
  }
  work_off_locked(stream, until);
  const Result result = stream->failed;
  stream->failed = SUCCESS;
  return result;
}

void work_off_all(Context* context) {
  std::vector<Stream*> streams = {&state().first};
  {
    std::lock_guard<std::mutex> hold(state().lock);
    for (const Object* object : state().objects) {
      if (object->kind == Kind::Stream && object->alive && object->context == context) streams.push_back(static_cast<Stream*>(const_cast<Object*>(object)));
    }
  }
  for (Stream* stream : streams) work_off(stream);
}

}  // namespace fake

// ------------------------------------------------------------------------------------------------------------- control

using namespace fake;

EXPORT void lf_fake_set(const char* name, long long value) {
  std::vector<Context*> mended;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    state().settings[name] = value;
    for (Context& context : state().contexts) {
      if (strcmp(name, "broken") || value || !context.broken) continue;
      mended.push_back(&context);
    }
  }
  for (Context* context : mended) {
    destroy(context);
    context->broken = SUCCESS;
  }
}

EXPORT long long lf_fake_get(const char* name) {
  std::lock_guard<std::mutex> hold(state().lock);
  if (!strcmp(name, "allocations")) return static_cast<long long>(state().device.size());
  if (!strcmp(name, "pinned")) return static_cast<long long>(state().pinned.size());
  long long found = 0;
  if (!strcmp(name, "bytes")) {
    for (const auto& one : state().device) found += static_cast<long long>(one.second.bytes);
    return found;
  }
  if (!strcmp(name, "objects")) {
    for (const Object* object : state().objects) found += object->alive && object->context && object->kind != Kind::Function;
    return found;
  }
  return state().counts[name];
}
