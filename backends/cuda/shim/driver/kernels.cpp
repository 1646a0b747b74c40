// The fake driver: modules, their kernels, and launches.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>

#include "fake.h"

using namespace fake;

namespace {

// What nvrtc.cpp makes: "LFSHIM <sm_N or compute_N> <release, as the driver numbers it> <path of a shared library>\n".
struct Image {
  int capability, release;
  bool is_ptx;
  char path[1024];
};

bool read_image(const char* from, Image* image) {
  char architecture[32];
  if (strncmp(from, "LFSHIM ", 7) || sscanf(from + 7, "%31s %d %1023[^\n]", architecture, &image->release, image->path) != 3) return false;
  image->is_ptx = !strncmp(architecture, "compute_", 8);
  if (!image->is_ptx && strncmp(architecture, "sm_", 3)) return false;
  image->capability = atoi(architecture + (image->is_ptx ? 8 : 3));
  return true;
}

Result took_wrong(const char* why) { return strstr(why, "not aligned") ? MISALIGNED : LAUNCH_FAILED; }

}  // namespace

EXPORT Result cuModuleLoadData(void** module, const void* data) {
  Context* context;
  if (const Result result = current_outside_of_captures(&context)) return result;
  Image image;
  if (!read_image(static_cast<const char*>(data), &image)) return INVALID_IMAGE;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    if (state().now("module")) return NO_BINARY;
    const long long capability = state().setting("capability");
    if (image.is_ptx && image.release / 10 > state().setting("driver") / 10) return UNSUPPORTED_PTX;
    // Code runs on its own device, and later ones of the same family; a text on all later ones.
    if (image.capability > capability || (!image.is_ptx && image.capability / 10 != capability / 10)) return NO_BINARY;
    state().counts["jitted"] += image.is_ptx;
  }
  void* library = dlopen(image.path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "fake driver: %s\n", dlerror());
    return INVALID_IMAGE;
  }
  auto bind = reinterpret_cast<void (*)(const lf_shim::Api*)>(dlsym(library, "lf_shim_bind"));
  if (!bind) return INVALID_IMAGE;
  bind(lf_shim::api_table());
  *module = made<Module>(context, library);
  return SUCCESS;
}

// The library stays. Its kernels are refused, also those that wait on a stream or in a graph.
EXPORT Result cuModuleUnload(void* handle) {
  Context* context;
  Module* module;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &module)) return result;
  module->alive = false;
  return SUCCESS;
}

EXPORT Result cuModuleGetFunction(void** function, void* handle, const char* name) {
  Context* context;
  Module* module;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &module)) return result;
  const std::string symbol = std::string(name) + "_entry";
  const void* entry = dlsym(module->library, symbol.c_str());
  if (!entry) return NOT_FOUND;
  *function = made<Function>(module, static_cast<const lf_shim::Entry*>(entry));
  return SUCCESS;
}

namespace {

Result known_function(void* handle, Context* context, Function** function) {
  if (const Result result = known(handle, context, function)) return result;
  return (*function)->module->alive ? SUCCESS : INVALID_HANDLE;
}

}  // namespace

EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
  Context* context;
  Function* function;
  if (const Result result = current(&context)) return result;
  if (const Result result = known_function(handle, context, &function)) return result;
  switch (attribute) {
    case 0: *value = static_cast<int>(function->entry->threads); break;
    case 4: *value = 32; break;  // registers: none of them is real
    case 8: *value = function->most_shared; break;
    default: *value = 0; break;
  }
  return SUCCESS;
}

EXPORT Result cuFuncSetAttribute(void* handle, int attribute, int value) {
  Context* context;
  Function* function;
  if (const Result result = current(&context)) return result;
  if (const Result result = known_function(handle, context, &function)) return result;
  std::lock_guard<std::mutex> hold(state().lock);
  if (attribute != 8 || value < 0 || value > most_shared()) return INVALID_VALUE;
  function->most_shared = value;
  return SUCCESS;
}

EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t shared) {
  const int by_threads = threads > 0 ? 2048 / threads : 0;
  const int by_shared = shared ? static_cast<int>(228 * 1024 / (shared + 1024)) : 32;
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  return SUCCESS;
}

EXPORT Result cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                             void* on, void** parameters, void** extra) {
  Context* context;
  Function* function;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known_function(handle, context, &function)) return result;
  if (const Result result = known(on, context, &stream)) return result;
  const unsigned long long threads = static_cast<unsigned long long>(bx) * by * bz;
  if (extra || !parameters || !gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffffu) return INVALID_VALUE;
  if (!threads || bx > 1024 || by > 1024 || bz > 64 || threads > function->entry->threads) return INVALID_VALUE;
  if (static_cast<int>(shared) > function->most_shared || function->entry->argument_bytes > 4096) return INVALID_VALUE;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    if (state().now("launch")) return OUT_OF_RESOURCES;
  }
  const unsigned char* bytes = static_cast<const unsigned char*>(parameters[0]);
  auto argument = std::make_shared<std::vector<unsigned char>>(bytes, bytes + function->entry->argument_bytes);
  return enqueue(stream, {[=]() -> Result {
    const lf_shim::Entry* entry = function->entry;
    {
      std::lock_guard<std::mutex> hold(state().lock);
      if (context->broken) return context->broken;
      ++state().counts["launches"];
      if (state().now("crash")) return LAUNCH_FAILED;
      if (state().now("broken")) return context->broken = LAUNCH_FAILED;
    }
    if (!function->module->alive) {
      fprintf(stderr, "fake driver: the module of %s was unloaded before it ran\n", entry->name);
      return ILLEGAL_ADDRESS;
    }
    if (lf_shim::run(entry, {{gx, gy, gz}, {bx, by, bz}, shared, argument->data()})) {
      const char* why = lf_shim::last_error();
      fprintf(stderr, "fake driver: %s\n", why);
      return took_wrong(why);
    }
    std::string what;
    std::lock_guard<std::mutex> hold(state().lock);
    if (!damaged(&what)) return SUCCESS;
    fprintf(stderr, "fake driver: %s %s\n", entry->name, what.c_str());
    ++state().counts["damaged"];
    return ILLEGAL_ADDRESS;
  }});
}
