// The fake driver: itself, its devices, their contexts, and the names of errors.
#include <cstdio>
#include <cstring>

#include "fake.h"

using namespace fake;

namespace {

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
    {STUB_LIBRARY, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {UNSUPPORTED_PTX, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {MISALIGNED, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {SYSTEM_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {COMPAT_NOT_SUPPORTED, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

Result of_device(int device) {
  std::lock_guard<std::mutex> hold(state().lock);
  if (!state().started) return NOT_INITIALIZED;
  return device < 0 || device >= state().setting("devices") || device >= MOST_DEVICES ? INVALID_DEVICE : SUCCESS;
}

}  // namespace

int fake::most_shared() {
  switch (state().setting("capability")) {
    case 75: return 64 * 1024;
    case 80: case 87: return 163 * 1024;
    case 86: case 88: case 89: case 120: case 121: return 99 * 1024;
    default: return 227 * 1024;
  }
}

EXPORT Result cuInit(unsigned flags) {
  std::lock_guard<std::mutex> hold(state().lock);
  if (flags) return INVALID_VALUE;
  if (const long long result = state().setting("init")) return static_cast<Result>(result);
  if (state().setting("devices") <= 0) return NO_DEVICE;
  state().started = true;
  return SUCCESS;
}

EXPORT Result cuDriverGetVersion(int* version) {
  std::lock_guard<std::mutex> hold(state().lock);
  *version = static_cast<int>(state().setting("driver"));
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
  std::lock_guard<std::mutex> hold(state().lock);
  if (!state().started) return NOT_INITIALIZED;
  *count = static_cast<int>(state().setting("devices"));
  return SUCCESS;
}

EXPORT Result cuDeviceGet(int* device, int ordinal) {
  if (const Result result = of_device(ordinal)) return result;
  *device = ordinal;
  return SUCCESS;
}

EXPORT Result cuDeviceGetName(char* name, int length, int device) {
  if (const Result result = of_device(device)) return result;
  snprintf(name, static_cast<size_t>(length), "fake device over host memory");
  return SUCCESS;
}

EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
  if (const Result result = of_device(device)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  *bytes = static_cast<size_t>(state().setting("memory"));
  return SUCCESS;
}

EXPORT Result cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  if (const Result result = of_device(device)) return result;
  memset(uuid, 0, 16);
  uuid[15] = static_cast<unsigned char>(device);
  return SUCCESS;
}

EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (const Result result = of_device(device)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  const int capability = static_cast<int>(state().setting("capability"));
  switch (attribute) {
    case 1: *value = 1024; break;              // threads a block
    case 8: *value = 48 * 1024; break;         // shared memory a block
    case 10: *value = 32; break;               // warp
    case 16: *value = 4; break;                // multiprocessors
    case 39: *value = 2048; break;             // threads a multiprocessor
    case 75: *value = capability / 10; break;  // compute capability
    case 76: *value = capability % 10; break;
    case 81: *value = 228 * 1024; break;  // shared memory a multiprocessor
    case 97: *value = most_shared(); break;  // shared memory a block, if asked for
    default: *value = 0; break;           // what is not there
  }
  return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------ contexts

EXPORT Result cuDevicePrimaryCtxRetain(void** context, int device) {
  if (const Result result = of_device(device)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  if (const long long result = state().setting("retain")) return static_cast<Result>(result);
  ++state().contexts[device].retained;
  *context = &state().contexts[device];
  return SUCCESS;
}

EXPORT Result cuDevicePrimaryCtxRelease_v2(int device) {
  if (const Result result = of_device(device)) return result;
  Context* context = &state().contexts[device];
  {
    std::lock_guard<std::mutex> hold(state().lock);
    if (!context->retained) return INVALID_CONTEXT;
    if (--context->retained) return SUCCESS;
  }
  work_off_all(context);
  const size_t left = destroy(context);
  std::lock_guard<std::mutex> hold(state().lock);
  state().counts["leaked"] += static_cast<long long>(left);
  return SUCCESS;
}

EXPORT Result cuCtxGetCurrent(void** context) {
  *context = current_or_null();
  return SUCCESS;
}

EXPORT Result cuCtxSetCurrent(void* context) {
  if (!context) return set_current(nullptr), SUCCESS;
  std::lock_guard<std::mutex> hold(state().lock);
  for (Context& one : state().contexts) {
    if (&one != context) continue;
    if (!one.retained) return CONTEXT_IS_DESTROYED;
    return set_current(&one), SUCCESS;
  }
  return INVALID_CONTEXT;
}

EXPORT Result cuCtxSynchronize() {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  work_off_all(context);
  return context->broken ? context->broken : finish(&state().first);
}
