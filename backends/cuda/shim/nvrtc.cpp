// A libnvrtc for tests: the functions that the backend calls. It compiles a kernel's source and its -D options with the machine's own C++ compiler and
// lf_shim.h, into a shared library; the "code for the device" is the path of that library, which driver/kernels.cpp opens. Whatever was compiled once is taken
// from the folder again: its name is a hash of the source, the options, the shim and the compiler.
//
// LF_SHIM_HEADERS (where lf_shim.h lies), LF_SHIM_FOLDER (where libraries go), LF_SHIM_COMPILER and LF_SHIM_FLAGS come from whoever builds this file.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

extern char** environ;

namespace {

struct Program {
  std::string source, log, image;
  bool is_ptx = false;
};

// The release, and what it makes code for: of 13.0.
constexpr int RELEASE = 13000;
const std::vector<int> ARCHITECTURES = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// FNV-1a, twice, from different starts.
std::string hash_of(const std::string& text) {
  char name[40];
  uint64_t hash[2] = {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full};
  for (unsigned char byte : text) {
    for (uint64_t& h : hash) h = (h ^ byte) * 0x100000001b3ull;
    hash[1] ^= hash[1] >> 29;
  }
  snprintf(name, sizeof name, "%016llx%016llx", static_cast<unsigned long long>(hash[0]), static_cast<unsigned long long>(hash[1]));
  return name;
}

int run(const std::vector<std::string>& command, const std::string& output) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), 0x241 /* write, create, truncate */, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  int status = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (status) return status;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

EXPORT int nvrtcVersion(int* major, int* minor) {
  *major = RELEASE / 1000;
  *minor = RELEASE % 1000 / 10;
  return 0;
}

EXPORT const char* nvrtcGetErrorString(int code) {
  switch (code) {
    case 0: return "NVRTC_SUCCESS";
    case 5: return "NVRTC_ERROR_INVALID_OPTION";
    case 6: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
}

EXPORT int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*, const char* const*) {
  *program = new Program{source, "", ""};
  return 0;
}

EXPORT int nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  *program = nullptr;
  return 0;
}

EXPORT int nvrtcCompileProgram(void* handle, int count, const char* const* options) {
  Program& program = *static_cast<Program*>(handle);
  const std::string headers = LF_SHIM_HEADERS, folder = LF_SHIM_FOLDER;
  std::vector<std::string> command = {LF_SHIM_COMPILER, "-x", "c++", "-std=c++20", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-w"};
  for (const char* flag = LF_SHIM_FLAGS; *flag;) {
    const char* end = strchr(flag, ' ');
    command.emplace_back(flag, end ? static_cast<size_t>(end - flag) : strlen(flag));
    flag = end ? end + 1 : flag + strlen(flag);
  }
  std::string architecture;
  bool fmad = true;
  for (int i = 0; i < count; ++i) {
    const std::string option = options[i];
    if (option.rfind("-D", 0) == 0) {
      command.push_back(option);
    } else if (option.rfind("--gpu-architecture=", 0) == 0) {
      architecture = option.substr(19);
    } else if (option == "--fmad=false") {
      fmad = false;
    } else if (option.rfind("--", 0) != 0) {
      program.log = "unknown option " + option;
      return 5;
    }
  }
  program.is_ptx = architecture.rfind("compute_", 0) == 0;
  const std::string number = architecture.substr(program.is_ptx ? 8 : architecture.rfind("sm_", 0) == 0 ? 3 : architecture.size());
  if (std::find(ARCHITECTURES.begin(), ARCHITECTURES.end(), atoi(number.c_str())) == ARCHITECTURES.end()) {
    program.log = "nvrtc: error: invalid value for --gpu-architecture (-arch)";
    return 5;
  }
  // What the real one does where it is not told otherwise.
  if (fmad) {
    command.insert(command.end(), {"-ffp-contract=fast", "-O2"});
#if defined(__x86_64__)
    command.emplace_back("-mfma");
#endif
  }
  std::string all = program.source + read_file(headers + "/lf_shim.h") + read_file(headers + "/abi.h");
  for (const std::string& word : command) all += word + '\0';
  const std::string path = folder + "/" + hash_of(all) + ".so";
  if (access(path.c_str(), R_OK) != 0) {
    mkdir(folder.c_str(), 0755);
    const std::string mine = path + "." + std::to_string(getpid()) + "." + std::to_string(reinterpret_cast<uintptr_t>(&program));
    std::ofstream(mine + ".cu") << program.source;
    command.insert(command.end(), {"-include", headers + "/lf_shim.h", "-o", mine, mine + ".cu"});
    const int status = run(command, mine + ".log");
    program.log = read_file(mine + ".log");
    remove((mine + ".log").c_str());
    remove((mine + ".cu").c_str());
    if (status) {
      remove(mine.c_str());
      if (program.log.empty()) program.log = std::string(LF_SHIM_COMPILER) + " cannot be run";
      return 6;
    }
    if (rename(mine.c_str(), path.c_str())) return 11;
  }
  program.image = "LFSHIM " + architecture + " " + std::to_string(RELEASE) + " " + path + "\n";
  return 0;
}

EXPORT int nvrtcGetNumSupportedArchs(int* count) {
  *count = static_cast<int>(ARCHITECTURES.size());
  return 0;
}
EXPORT int nvrtcGetSupportedArchs(int* to) {
  std::copy(ARCHITECTURES.begin(), ARCHITECTURES.end(), to);
  return 0;
}
// There is code for a device, or a text for any, as the architecture says.
EXPORT int nvrtcGetCUBINSize(void* handle, size_t* bytes) {
  const Program& program = *static_cast<Program*>(handle);
  *bytes = program.is_ptx ? 0 : program.image.size() + 1;
  return 0;
}
EXPORT int nvrtcGetCUBIN(void* handle, char* to) {
  const Program& program = *static_cast<Program*>(handle);
  if (program.is_ptx) return 11;
  strcpy(to, program.image.c_str());
  return 0;
}
EXPORT int nvrtcGetPTXSize(void* program, size_t* bytes) {
  *bytes = static_cast<Program*>(program)->image.size() + 1;
  return 0;
}
EXPORT int nvrtcGetPTX(void* program, char* to) {
  strcpy(to, static_cast<Program*>(program)->image.c_str());
  return 0;
}
EXPORT int nvrtcGetProgramLogSize(void* program, size_t* bytes) {
  *bytes = static_cast<Program*>(program)->log.size() + 1;
  return 0;
}
EXPORT int nvrtcGetProgramLog(void* program, char* to) {
  strcpy(to, static_cast<Program*>(program)->log.c_str());
  return 0;
}
