// The fake driver: memory of the device, pinned memory, copies and fills.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fake.h"

namespace fake {
namespace {

constexpr size_t GUARD = 256;
constexpr unsigned char POISON = 0xCB, FREED = 0xDB, SENTINEL = 0x5A;
// So much freed memory is kept aside.
constexpr size_t MOST_FREED = 32 << 20;

// So much of it, what was freed last, is looked at after every launch; of the rest one allocation, in turn, and each before it is given back.
constexpr size_t FREED_LATELY = 256 << 10;

bool all_are(const unsigned char* at, size_t bytes, unsigned char byte) {
  // Each equals its neighbour, and the first is it.
  return !bytes || (*at == byte && !memcmp(at, at + 1, bytes - 1));
}

bool intact(const Allocation& one) {
  return all_are(one.start, GUARD, SENTINEL) && all_are(one.start + GUARD + one.bytes, GUARD, SENTINEL);
}

// Whether somebody wrote into what was freed; then it is mended, and told once.
bool untouched(const Allocation& one) {
  if (all_are(one.start, one.bytes + 2 * GUARD, FREED)) return true;
  memset(one.start, FREED, one.bytes + 2 * GUARD);
  return false;
}

Result take(std::map<Address, Allocation>& from, Context* context, size_t bytes, Address* out) {
  if (!bytes) return INVALID_VALUE;
  void* start = nullptr;
  if (posix_memalign(&start, 512, bytes + 2 * GUARD)) return OUT_OF_MEMORY;
  Allocation one{static_cast<unsigned char*>(start), bytes, context};
  memset(one.start, SENTINEL, GUARD);
  memset(one.start + GUARD, POISON, bytes);
  memset(one.start + GUARD + bytes, SENTINEL, GUARD);
  *out = reinterpret_cast<Address>(one.start + GUARD);
  from[*out] = one;
  return SUCCESS;
}

Result give_back(std::map<Address, Allocation>& to, Context* context, Address at) {
  auto found = to.find(at);
  if (found == to.end() || found->second.context != context) return INVALID_VALUE;
  const Allocation one = found->second;
  to.erase(found);
  const bool whole = intact(one);
  if (!whole) {
    fprintf(stderr, "fake driver: bytes around an allocation of %zu were written\n", one.bytes);
    ++state().counts["damaged"];
  }
  memset(one.start, FREED, one.bytes + 2 * GUARD);
  state().freed.push_back(one);
  state().freed_bytes += one.bytes;
  while (state().freed_bytes > MOST_FREED) {
    const Allocation& oldest = state().freed.front();
    if (!untouched(oldest)) {
      fprintf(stderr, "fake driver: %zu bytes that were freed were written\n", oldest.bytes);
      ++state().counts["damaged"];
    }
    state().freed_bytes -= oldest.bytes;
    free(oldest.start);
    state().freed.erase(state().freed.begin());
  }
  return whole ? SUCCESS : ILLEGAL_ADDRESS;
}

// What a copy or a fill touches. Asked when it is put on a stream, and again when it is done.
Result on_device(const char* what, Address at, size_t bytes) {
  std::lock_guard<std::mutex> hold(state().lock);
  if (inside(state().device, at, bytes)) return SUCCESS;
  fprintf(stderr, "fake driver: %s of %zu bytes leaves device memory\n", what, bytes);
  return INVALID_VALUE;
}

bool is_pinned(const void* at, size_t bytes) {
  std::lock_guard<std::mutex> hold(state().lock);
  return inside(state().pinned, reinterpret_cast<Address>(at), bytes);
}

// By the time that a copy is done, its memory may be gone.
Result still(const char* what, Address at, size_t bytes, const void* pinned) {
  if (on_device(what, at, bytes)) return ILLEGAL_ADDRESS;
  if (!pinned || is_pinned(pinned, bytes)) return SUCCESS;
  fprintf(stderr, "fake driver: pinned memory was freed under %s of %zu bytes\n", what, bytes);
  return ILLEGAL_ADDRESS;
}

void copied() {
  std::lock_guard<std::mutex> hold(state().lock);
  ++state().counts["copies"];
}

}  // namespace

bool inside(const std::map<Address, Allocation>& all, Address at, size_t bytes) {
  auto after = all.upper_bound(at);
  if (after == all.begin()) return false;
  --after;
  return at + bytes <= after->first + after->second.bytes;
}

bool damaged(std::string* what) {
  for (auto& one : state().device) {
    if (intact(one.second)) continue;
    memset(one.second.start, SENTINEL, GUARD);
    memset(one.second.start + GUARD + one.second.bytes, SENTINEL, GUARD);
    return *what = "wrote outside of an allocation of " + std::to_string(one.second.bytes) + " bytes", true;
  }
  const std::vector<Allocation>& freed = state().freed;
  const auto written = [&](size_t at) {
    if (untouched(freed[at])) return false;
    *what = "wrote into " + std::to_string(freed[at].bytes) + " bytes that were freed";
    return true;
  };
  size_t older = freed.size();
  for (size_t bytes = 0; older && bytes < FREED_LATELY;) {
    bytes += freed[--older].bytes;
    if (written(older)) return true;
  }
  return older && written(state().looked_at++ % older);
}

}  // namespace fake

using namespace fake;

EXPORT long long lf_fake_get(const char* name);

EXPORT Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  Context* context;
  if (const Result result = current(&context)) return result;
  const long long used = lf_fake_get("bytes");
  std::lock_guard<std::mutex> hold(state().lock);
  const long long all = state().setting("memory");
  *total = static_cast<size_t>(all);
  *free_bytes = static_cast<size_t>(used < all ? all - used : 0);
  return SUCCESS;
}

EXPORT Result cuMemAlloc_v2(Address* at, size_t bytes) {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  const long long used = lf_fake_get("bytes");
  std::lock_guard<std::mutex> hold(state().lock);
  if (state().now("oom")) return OUT_OF_MEMORY;
  if (static_cast<unsigned long long>(used) + bytes > static_cast<unsigned long long>(state().setting("memory"))) return OUT_OF_MEMORY;
  return take(state().device, context, bytes, at);
}

// Waits for whatever the device has to do, as the real one does.
EXPORT Result cuMemFree_v2(Address at) {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (!at) return SUCCESS;
  work_off_all(context);
  std::lock_guard<std::mutex> hold(state().lock);
  return give_back(state().device, context, at);
}

EXPORT Result cuMemHostAlloc(void** at, size_t bytes, unsigned flags) {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (flags > 7) return INVALID_VALUE;
  std::lock_guard<std::mutex> hold(state().lock);
  if (state().now("pinned")) return OUT_OF_MEMORY;
  Address taken = 0;
  const Result result = take(state().pinned, context, bytes, &taken);
  *at = reinterpret_cast<void*>(taken);
  return result;
}

// Waits for nobody: nothing may be under way from or to it.
EXPORT Result cuMemFreeHost(void* at) {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  return give_back(state().pinned, context, reinterpret_cast<Address>(at));
}

EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (const Result result = on_device("a copy", to, bytes)) return result;
  copied();
  if (is_pinned(from, bytes)) {
    return enqueue(stream, {[=]() -> Result {
      if (const Result result = still("a copy", to, bytes, from)) return result;
      return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
    }});
  }
  // Memory that can be paged is read before the call returns; a capture does not take it.
  if (stream->capture) return CAPTURE_UNSUPPORTED;
  auto held = std::make_shared<std::vector<unsigned char>>(static_cast<const unsigned char*>(from), static_cast<const unsigned char*>(from) + bytes);
  return enqueue(stream, {[=]() -> Result {
    if (const Result result = still("a copy", to, bytes, nullptr)) return result;
    return memcpy(reinterpret_cast<void*>(to), held->data(), bytes), SUCCESS;
  }});
}

EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (const Result result = on_device("a copy", from, bytes)) return result;
  copied();
  const void* pinned = is_pinned(to, bytes) ? to : nullptr;
  if (stream->capture && !pinned) return CAPTURE_UNSUPPORTED;
  memset(to, POISON, bytes);
  return enqueue(stream, {[=]() -> Result {
    if (const Result result = still("a copy", from, bytes, pinned)) return result;
    return memcpy(to, reinterpret_cast<const void*>(from), bytes), SUCCESS;
  }});
}

EXPORT Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (const Result result = on_device("a copy", from, bytes)) return result;
  if (const Result result = on_device("a copy", to, bytes)) return result;
  return enqueue(stream, {[=]() -> Result {
    if (still("a copy", to, bytes, nullptr) || still("a copy", from, bytes, nullptr)) return ILLEGAL_ADDRESS;
    return memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes), SUCCESS;
  }});
}

EXPORT Result cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
  if (const Result result = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)) return result;
  return finish(&state().first);
}

EXPORT Result cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
  if (const Result result = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)) return result;
  return finish(&state().first);
}

EXPORT Result cuMemsetD8Async(Address at, unsigned char byte, size_t count, void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (const Result result = on_device("a fill", at, count)) return result;
  return enqueue(stream, {[=]() -> Result {
    if (const Result result = still("a fill", at, count, nullptr)) return result;
    return memset(reinterpret_cast<void*>(at), byte, count), SUCCESS;
  }});
}
