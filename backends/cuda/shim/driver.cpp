// A libcuda for tests: the functions that the backend calls, over host memory; kernels are run by shim.cpp. The backend does not know.
//
// What a real driver lets pass for a while, this one does not:
//   - Work on a stream is queued, and done only when somebody waits for it: who reads too early finds poison.
//   - Device memory is poisoned when it is taken. Bytes before and behind it are looked at after each launch and when it is given back.
//   - Copies and fills have to lie inside one allocation; what is freed is poisoned again. A copy out of pinned memory reads it late.
//   - A graph holds what was captured, and is replayed. During a capture, what a capture forbids is refused.
//
// Faults come by lf_fake_set(name, value), or by LF_FAKE=name=value,name=value:
//   devices   how many there are                        driver    its version, 1000 · major + 10 · minor
//   init      what cuInit returns                       memory    bytes of device memory
//   oom       the n-th allocation from now fails        launch    the n-th launch from now is refused
//   crash     the n-th kernel run from now fails, which whoever waits for it is told
//   module    the n-th load of kernels from now is refused
//   capability   10 · major + minor                     pinned    the n-th pinned allocation from now fails
// and lf_fake_get(name) counts: allocations (alive), bytes (alive), launches, graphs (launched), copies, damaged (sentinels).
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "shim.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef int Result;
typedef unsigned long long Address;

enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY = 209,
  FILE_NOT_FOUND = 301,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  OUT_OF_RESOURCES = 701,
  MISALIGNED = 716,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
};

namespace {

constexpr size_t GUARD = 256;
constexpr unsigned char POISON = 0xCB, FREED = 0xDB, SENTINEL = 0x5A;

typedef std::function<Result()> Work;

struct Stream {
  std::mutex lock;
  std::vector<Work> queue;
  bool capturing = false;
  std::vector<Work> captured;
  Result failed = SUCCESS;
};

struct Event {
  double milliseconds = 0.0;
  Stream* stream = nullptr;
};

struct Graph {
  std::vector<Work> work;
};

struct Module {
  void* library;
};

struct Function {
  const lf_shim::Entry* entry;
  int most_shared = 48 * 1024;
};

struct Allocation {
  unsigned char* start;  // of the guard before it
  size_t bytes;
};

struct Fake {
  std::mutex lock;
  std::map<Address, Allocation> device, pinned;
  std::map<std::string, long long> settings, counts;
  int capturing = 0;  // captures that forbid unsafe calls
  Stream first;       // the legacy default stream
  bool started = false;

  Fake() {
    settings = {{"devices", 1}, {"driver", 13000}, {"memory", 8ll << 30}, {"capability", 90}};
    const char* text = getenv("LF_FAKE");
    std::string all = text ? text : "";
    for (size_t at = 0; at < all.size();) {
      size_t end = all.find(',', at);
      if (end == std::string::npos) end = all.size();
      const std::string one = all.substr(at, end - at);
      const size_t equal = one.find('=');
      if (equal != std::string::npos) settings[one.substr(0, equal)] = atoll(one.c_str() + equal + 1);
      at = end + 1;
    }
  }

  long long setting(const char* name) { return settings.count(name) ? settings[name] : 0; }

  // Whether the n-th time, counted from when it was set, is now.
  bool now(const char* name) {
    auto found = settings.find(name);
    if (found == settings.end() || found->second <= 0) return false;
    return --found->second == 0;
  }
};

Fake& fake() {
  static Fake* all = new Fake;  // outlives whatever is dropped at the end of the process
  return *all;
}

thread_local void* current_context = nullptr;
int the_context;

Stream* stream_of(void* handle) {
  // Null, and the legacy and per-thread handles.
  return reinterpret_cast<uintptr_t>(handle) <= 2 ? &fake().first : static_cast<Stream*>(handle);
}

double now_in_milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool intact(const Allocation& one) {
  for (size_t i = 0; i < GUARD; ++i) {
    if (one.start[i] != SENTINEL || one.start[GUARD + one.bytes + i] != SENTINEL) return false;
  }
  return true;
}

Result take(std::map<Address, Allocation>& from, size_t bytes, Address* out) {
  if (!bytes) return INVALID_VALUE;
  void* start = nullptr;
  if (posix_memalign(&start, 512, bytes + 2 * GUARD)) return OUT_OF_MEMORY;
  Allocation one{static_cast<unsigned char*>(start), bytes};
  memset(one.start, SENTINEL, GUARD);
  memset(one.start + GUARD, POISON, bytes);
  memset(one.start + GUARD + bytes, SENTINEL, GUARD);
  *out = reinterpret_cast<Address>(one.start + GUARD);
  from[*out] = one;
  return SUCCESS;
}

Result give_back(std::map<Address, Allocation>& to, Address at) {
  auto found = to.find(at);
  if (found == to.end()) return INVALID_VALUE;
  const bool whole = intact(found->second);
  if (!whole) {
    fprintf(stderr, "fake driver: bytes around an allocation of %zu were written\n", found->second.bytes);
    ++fake().counts["damaged"];
  }
  memset(found->second.start, FREED, found->second.bytes + 2 * GUARD);
  free(found->second.start);
  to.erase(found);
  return whole ? SUCCESS : ILLEGAL_ADDRESS;
}

// The allocation that all of the range lies in. The lock is held.
bool inside(const std::map<Address, Allocation>& all, Address at, size_t bytes) {
  auto after = all.upper_bound(at);
  if (after == all.begin()) return false;
  --after;
  return at + bytes <= after->first + after->second.bytes;
}

Result on_device(const char* what, Address at, size_t bytes) {
  std::lock_guard<std::mutex> hold(fake().lock);
  if (inside(fake().device, at, bytes)) return SUCCESS;
  fprintf(stderr, "fake driver: %s of %zu bytes leaves device memory\n", what, bytes);
  return INVALID_VALUE;
}

// Puts work at the end of a stream, or into the graph that it is captured for.
Result enqueue(Stream* stream, Work work) {
  std::lock_guard<std::mutex> hold(stream->lock);
  (stream->capturing ? stream->captured : stream->queue).push_back(std::move(work));
  return SUCCESS;
}

// Does all of a stream's work. What failed is told once.
Result finish(Stream* stream) {
  std::lock_guard<std::mutex> hold(stream->lock);
  if (stream->capturing) return CAPTURE_UNSUPPORTED;
  std::vector<Work> queue;
  queue.swap(stream->queue);
  for (Work& work : queue) {
    const Result result = work();
    if (result != SUCCESS && stream->failed == SUCCESS) stream->failed = result;
  }
  const Result result = stream->failed;
  stream->failed = SUCCESS;
  return result;
}

bool forbidden() {
  std::lock_guard<std::mutex> hold(fake().lock);
  return fake().capturing > 0;
}

struct Named {
  Result code;
  const char* name;
  const char* words;
};

const Named NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {MISALIGNED, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

}  // namespace

// ------------------------------------------------------------------------------------------------------------- control

EXPORT void lf_fake_set(const char* name, long long value) {
  std::lock_guard<std::mutex> hold(fake().lock);
  fake().settings[name] = value;
}

EXPORT long long lf_fake_get(const char* name) {
  std::lock_guard<std::mutex> hold(fake().lock);
  if (!strcmp(name, "allocations")) return static_cast<long long>(fake().device.size());
  if (!strcmp(name, "bytes")) {
    long long bytes = 0;
    for (const auto& one : fake().device) bytes += static_cast<long long>(one.second.bytes);
    return bytes;
  }
  return fake().counts[name];
}

// ----------------------------------------------------------------------------------------------------- driver and device

EXPORT Result cuInit(unsigned) {
  std::lock_guard<std::mutex> hold(fake().lock);
  if (const long long result = fake().setting("init")) return static_cast<Result>(result);
  if (fake().setting("devices") <= 0) return NO_DEVICE;
  fake().started = true;
  return SUCCESS;
}

EXPORT Result cuDriverGetVersion(int* version) {
  std::lock_guard<std::mutex> hold(fake().lock);
  *version = static_cast<int>(fake().setting("driver"));
  return SUCCESS;
}

// A real NVRTC asks for it, and goes on without.
EXPORT Result cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return NOT_FOUND;
}

EXPORT Result cuGetErrorName(Result code, const char** name) {
  for (const Named& known : NAMES) {
    if (known.code == code) return *name = known.name, SUCCESS;
  }
  *name = nullptr;
  return INVALID_VALUE;
}

EXPORT Result cuGetErrorString(Result code, const char** words) {
  for (const Named& known : NAMES) {
    if (known.code == code) return *words = known.words, SUCCESS;
  }
  *words = nullptr;
  return INVALID_VALUE;
}

EXPORT Result cuDeviceGetCount(int* count) {
  std::lock_guard<std::mutex> hold(fake().lock);
  *count = static_cast<int>(fake().setting("devices"));
  return SUCCESS;
}

EXPORT Result cuDeviceGet(int* device, int ordinal) {
  std::lock_guard<std::mutex> hold(fake().lock);
  if (!fake().started) return NOT_INITIALIZED;
  if (ordinal < 0 || ordinal >= fake().setting("devices")) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}

EXPORT Result cuDeviceGetName(char* name, int length, int) {
  snprintf(name, static_cast<size_t>(length), "fake device over host memory");
  return SUCCESS;
}

EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int) {
  std::lock_guard<std::mutex> hold(fake().lock);
  *bytes = static_cast<size_t>(fake().setting("memory"));
  return SUCCESS;
}

EXPORT Result cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  memset(uuid, 0, 16);
  uuid[15] = static_cast<unsigned char>(device);
  return SUCCESS;
}

EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int) {
  std::lock_guard<std::mutex> hold(fake().lock);
  const int capability = static_cast<int>(fake().setting("capability"));
  switch (attribute) {
    case 1: *value = 1024; break;              // threads a block
    case 8: *value = 48 * 1024; break;         // shared memory a block
    case 10: *value = 32; break;               // warp
    case 16: *value = 4; break;                // multiprocessors
    case 39: *value = 2048; break;             // threads a multiprocessor
    case 75: *value = capability / 10; break;  // compute capability
    case 76: *value = capability % 10; break;
    case 81: *value = 228 * 1024; break;  // shared memory a multiprocessor
    case 97: *value = 227 * 1024; break;  // shared memory a block, if asked for
    default: *value = 0; break;           // what is not there
  }
  return SUCCESS;
}

EXPORT Result cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &the_context;
  return SUCCESS;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT Result cuCtxGetCurrent(void** context) { return *context = current_context, SUCCESS; }
EXPORT Result cuCtxSetCurrent(void* context) { return current_context = context, SUCCESS; }
EXPORT Result cuCtxPushCurrent_v2(void* context) { return current_context = context, SUCCESS; }
EXPORT Result cuCtxPopCurrent_v2(void** context) {
  if (context) *context = current_context;
  current_context = nullptr;
  return SUCCESS;
}
EXPORT Result cuCtxSynchronize() { return finish(&fake().first); }

// -------------------------------------------------------------------------------------------------------------- memory

EXPORT Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  const long long used = lf_fake_get("bytes");
  std::lock_guard<std::mutex> hold(fake().lock);
  const long long all = fake().setting("memory");
  *total = static_cast<size_t>(all);
  *free_bytes = static_cast<size_t>(used < all ? all - used : 0);
  return SUCCESS;
}

EXPORT Result cuMemAlloc_v2(Address* at, size_t bytes) {
  if (!current_context) return INVALID_CONTEXT;
  if (forbidden()) return CAPTURE_UNSUPPORTED;
  const long long used = lf_fake_get("bytes");
  std::lock_guard<std::mutex> hold(fake().lock);
  if (fake().now("oom")) return OUT_OF_MEMORY;
  if (static_cast<unsigned long long>(used) + bytes > static_cast<unsigned long long>(fake().setting("memory"))) return OUT_OF_MEMORY;
  return take(fake().device, bytes, at);
}

EXPORT Result cuMemFree_v2(Address at) {
  if (!at) return SUCCESS;
  if (forbidden()) return CAPTURE_UNSUPPORTED;
  std::lock_guard<std::mutex> hold(fake().lock);
  return give_back(fake().device, at);
}

EXPORT Result cuMemHostAlloc(void** at, size_t bytes, unsigned) {
  if (!current_context) return INVALID_CONTEXT;
  if (forbidden()) return CAPTURE_UNSUPPORTED;
  std::lock_guard<std::mutex> hold(fake().lock);
  if (fake().now("pinned")) return OUT_OF_MEMORY;
  Address taken = 0;
  const Result result = take(fake().pinned, bytes, &taken);
  *at = reinterpret_cast<void*>(taken);
  return result;
}

EXPORT Result cuMemFreeHost(void* at) {
  if (forbidden()) return CAPTURE_UNSUPPORTED;
  std::lock_guard<std::mutex> hold(fake().lock);
  return give_back(fake().pinned, reinterpret_cast<Address>(at));
}

EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
  if (const Result result = on_device("a copy", to, bytes)) return result;
  bool late;
  {
    std::lock_guard<std::mutex> hold(fake().lock);
    late = inside(fake().pinned, reinterpret_cast<Address>(from), bytes);
    ++fake().counts["copies"];
  }
  if (late) return enqueue(stream_of(stream), [=] { return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS; });
  // Memory that can be paged is read before the call returns.
  auto held = std::make_shared<std::vector<unsigned char>>(static_cast<const unsigned char*>(from), static_cast<const unsigned char*>(from) + bytes);
  return enqueue(stream_of(stream), [=] { return memcpy(reinterpret_cast<void*>(to), held->data(), bytes), SUCCESS; });
}

EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
  if (const Result result = on_device("a copy", from, bytes)) return result;
  {
    std::lock_guard<std::mutex> hold(fake().lock);
    ++fake().counts["copies"];
  }
  return enqueue(stream_of(stream), [=] { return memcpy(to, reinterpret_cast<const void*>(from), bytes), SUCCESS; });
}

EXPORT Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
  if (const Result result = on_device("a copy", from, bytes)) return result;
  if (const Result result = on_device("a copy", to, bytes)) return result;
  return enqueue(stream_of(stream), [=] { return memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes), SUCCESS; });
}

EXPORT Result cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
  if (const Result result = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)) return result;
  return finish(&fake().first);
}

EXPORT Result cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
  if (const Result result = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)) return result;
  return finish(&fake().first);
}

EXPORT Result cuMemsetD8Async(Address at, unsigned char byte, size_t count, void* stream) {
  if (const Result result = on_device("a fill", at, count)) return result;
  return enqueue(stream_of(stream), [=] { return memset(reinterpret_cast<void*>(at), byte, count), SUCCESS; });
}

// ----------------------------------------------------------------------------------------------------- streams and events

EXPORT Result cuStreamCreate(void** stream, unsigned) {
  if (!current_context) return INVALID_CONTEXT;
  *stream = new Stream;
  return SUCCESS;
}
EXPORT Result cuStreamSynchronize(void* stream) { return finish(stream_of(stream)); }
EXPORT Result cuStreamDestroy_v2(void* stream) {
  finish(stream_of(stream));
  delete static_cast<Stream*>(stream);
  return SUCCESS;
}
EXPORT Result cuStreamQuery(void* stream) {
  std::lock_guard<std::mutex> hold(stream_of(stream)->lock);
  return stream_of(stream)->queue.empty() ? SUCCESS : NOT_READY;
}
EXPORT Result cuStreamWaitEvent(void*, void* event, unsigned) {
  Stream* other = static_cast<Event*>(event)->stream;
  return other ? finish(other) : SUCCESS;
}

EXPORT Result cuEventCreate(void** event, unsigned) {
  *event = new Event;
  return SUCCESS;
}
EXPORT Result cuEventDestroy_v2(void* event) {
  if (Stream* stream = static_cast<Event*>(event)->stream) finish(stream);
  delete static_cast<Event*>(event);
  return SUCCESS;
}
EXPORT Result cuEventRecord(void* handle, void* stream) {
  Event* event = static_cast<Event*>(handle);
  event->stream = stream_of(stream);
  return enqueue(event->stream, [=] { return event->milliseconds = now_in_milliseconds(), SUCCESS; });
}
EXPORT Result cuEventSynchronize(void* event) {
  Stream* stream = static_cast<Event*>(event)->stream;
  return stream ? finish(stream) : SUCCESS;
}
EXPORT Result cuEventQuery(void* event) {
  Stream* stream = static_cast<Event*>(event)->stream;
  return stream ? cuStreamQuery(stream) : SUCCESS;
}
EXPORT Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  *milliseconds = static_cast<float>(static_cast<Event*>(to)->milliseconds - static_cast<Event*>(from)->milliseconds);
  return SUCCESS;
}
EXPORT Result cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return cuEventElapsedTime(milliseconds, from, to); }

// -------------------------------------------------------------------------------------------------------------- modules

// An image is what nvrtc.cpp makes: "LFSHIM <architecture> <path of a shared library>\n".
EXPORT Result cuModuleLoadData(void** module, const void* image) {
  if (!current_context) return INVALID_CONTEXT;
  if (forbidden()) return CAPTURE_UNSUPPORTED;
  char architecture[32], path[1024];
  if (strncmp(static_cast<const char*>(image), "LFSHIM ", 7) || sscanf(static_cast<const char*>(image) + 7, "%31s %1023[^\n]", architecture, path) != 2) {
    return INVALID_IMAGE;
  }
  {
    std::lock_guard<std::mutex> hold(fake().lock);
    if (fake().now("module")) return NO_BINARY;
    if (strncmp(architecture, "sm_", 3) || atoi(architecture + 3) != fake().setting("capability")) return NO_BINARY;
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "fake driver: %s\n", dlerror());
    return INVALID_IMAGE;
  }
  auto bind = reinterpret_cast<void (*)(const lf_shim::Api*)>(dlsym(library, "lf_shim_bind"));
  if (!bind) return INVALID_IMAGE;
  bind(lf_shim::api_table());
  *module = new Module{library};
  return SUCCESS;
}

// The library stays: work that was queued may still run in it.
EXPORT Result cuModuleUnload(void* module) {
  delete static_cast<Module*>(module);
  return SUCCESS;
}

EXPORT Result cuModuleGetFunction(void** function, void* module, const char* name) {
  const std::string symbol = std::string(name) + "_entry";
  const void* entry = dlsym(static_cast<Module*>(module)->library, symbol.c_str());
  if (!entry) return NOT_FOUND;
  *function = new Function{static_cast<const lf_shim::Entry*>(entry)};  // a few bytes a kernel, as long as the process
  return SUCCESS;
}

EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  const Function* of = static_cast<const Function*>(function);
  switch (attribute) {
    case 0: *value = static_cast<int>(of->entry->threads); break;
    case 4: *value = 32; break;  // registers: none of them is real
    case 8: *value = of->most_shared; break;
    default: *value = 0; break;
  }
  return SUCCESS;
}

EXPORT Result cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8 || value < 0 || value > 227 * 1024) return INVALID_VALUE;
  static_cast<Function*>(function)->most_shared = value;
  return SUCCESS;
}

EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t shared) {
  const int by_threads = threads > 0 ? 2048 / threads : 0;
  const int by_shared = shared ? static_cast<int>(228 * 1024 / (shared + 1024)) : 32;
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  return SUCCESS;
}

EXPORT Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                             void* stream, void** parameters, void** extra) {
  if (!current_context) return INVALID_CONTEXT;
  const Function* of = static_cast<const Function*>(function);
  if (extra || !parameters || !gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffffu) return INVALID_VALUE;
  if (static_cast<int>(shared) > of->most_shared || static_cast<unsigned long long>(bx) * by * bz > of->entry->threads) return INVALID_VALUE;
  {
    std::lock_guard<std::mutex> hold(fake().lock);
    if (fake().now("launch")) return OUT_OF_RESOURCES;
  }
  const unsigned char* bytes = static_cast<const unsigned char*>(parameters[0]);
  auto argument = std::make_shared<std::vector<unsigned char>>(bytes, bytes + of->entry->argument_bytes);
  return enqueue(stream_of(stream), [=]() -> Result {
    {
      std::lock_guard<std::mutex> hold(fake().lock);
      ++fake().counts["launches"];
      if (fake().now("crash")) return LAUNCH_FAILED;
    }
    if (lf_shim::run(of->entry, {{gx, gy, gz}, {bx, by, bz}, shared, argument->data()})) {
      const char* why = lf_shim::last_error();
      fprintf(stderr, "fake driver: %s\n", why);
      return strstr(why, "not aligned") ? MISALIGNED : LAUNCH_FAILED;
    }
    std::lock_guard<std::mutex> hold(fake().lock);
    for (auto& one : fake().device) {
      if (intact(one.second)) continue;
      fprintf(stderr, "fake driver: %s wrote outside of an allocation of %zu bytes\n", of->entry->name, one.second.bytes);
      ++fake().counts["damaged"];
      memset(one.second.start, SENTINEL, GUARD);
      memset(one.second.start + GUARD + one.second.bytes, SENTINEL, GUARD);
      return ILLEGAL_ADDRESS;
    }
    return SUCCESS;
  });
}

// --------------------------------------------------------------------------------------------------------------- graphs

EXPORT Result cuStreamBeginCapture_v2(void* handle, unsigned mode) {
  Stream* stream = stream_of(handle);
  if (stream == &fake().first) return CAPTURE_UNSUPPORTED;
  std::lock_guard<std::mutex> hold(stream->lock);
  if (stream->capturing) return CAPTURE_UNSUPPORTED;
  stream->capturing = true;
  stream->captured.clear();
  std::lock_guard<std::mutex> hold_all(fake().lock);
  // Relaxed captures (2) forbid nothing. Thread-local ones (1) forbid only their own thread, which this does not tell apart from a relaxed one.
  if (mode == 0) ++fake().capturing;
  return SUCCESS;
}

EXPORT Result cuStreamEndCapture(void* handle, void** graph) {
  Stream* stream = stream_of(handle);
  std::lock_guard<std::mutex> hold(stream->lock);
  if (!stream->capturing) return INVALID_VALUE;
  stream->capturing = false;
  *graph = new Graph{std::move(stream->captured)};
  stream->captured.clear();
  std::lock_guard<std::mutex> hold_all(fake().lock);
  if (fake().capturing > 0) --fake().capturing;
  return SUCCESS;
}

EXPORT Result cuStreamIsCapturing(void* handle, int* status) {
  std::lock_guard<std::mutex> hold(stream_of(handle)->lock);
  *status = stream_of(handle)->capturing;
  return SUCCESS;
}

EXPORT Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  *executable = new Graph(*static_cast<Graph*>(graph));
  return SUCCESS;
}
EXPORT Result cuGraphUpload(void*, void*) { return SUCCESS; }
EXPORT Result cuGraphLaunch(void* executable, void* stream) {
  {
    std::lock_guard<std::mutex> hold(fake().lock);
    ++fake().counts["graphs"];
  }
  for (const Work& work : static_cast<Graph*>(executable)->work) enqueue(stream_of(stream), work);
  return SUCCESS;
}
EXPORT Result cuGraphExecDestroy(void* executable) { return delete static_cast<Graph*>(executable), SUCCESS; }
EXPORT Result cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
