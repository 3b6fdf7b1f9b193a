// Names and order are NCCL 2.30's: a path or library name, the end of "libnccl-profiler-%s.so",
// "none", STATIC_PLUGIN for the program itself; version 6 before version 5. What NCCL also has and
// we don't: versions 1 to 4, and a network plugin's library as the last resort.
#include "src/standin/nccl/profiler_plugin.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <strings.h>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr int kCopyEngineEvents = kEventCeColl | kEventCeSync | kEventCeBatch;

// NCCL's levels: 1 VERSION, 2 WARN, 3 INFO, 5 TRACE.
int debug_level() {
  static const int level = [] {
    const char* text = std::getenv("NCCL_DEBUG");
    if (text == nullptr) return 0;
    if (::strcasecmp(text, "WARN") == 0) return 2;
    if (::strcasecmp(text, "INFO") == 0) return 3;
    return ::strcasecmp(text, "TRACE") == 0 ? 5 : 1;
  }();
  return level;
}

void log(int level, unsigned long, const char*, int, const char* format, ...) {
  if (level > debug_level()) return;
  char text[1024];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "convoy stand-in: NCCL profiler: %s\n", text);
}

void tell(const std::string& text) {
  if (debug_level() >= 3) std::fprintf(stderr, "convoy stand-in: %s\n", text.c_str());
}

// Neither a path nor "lib….so".
bool is_suffix(const std::string& name) {
  if (name.find('/') != std::string::npos) return false;
  const bool is_library =
      name.rfind("lib", 0) == 0 && name.size() > 6 && name.substr(name.size() - 3) == ".so";
  return !is_library;
}

}  // namespace

ProfilerPlugin& ProfilerPlugin::get() {
  static auto* plugin = new ProfilerPlugin;  // streams' threads may outlive static objects
  return *plugin;
}

ProfilerPlugin::Use::Use(ProfilerPlugin& plugin) {
  if (!plugin.is_loaded()) return;
  lock_ = std::shared_lock(plugin.in_use_);
  table_ = plugin.table_.load(std::memory_order_acquire);
}

void* ProfilerPlugin::open_library(const char* name) {
  const std::string wanted = name == nullptr || *name == 0 ? "libnccl-profiler.so" : name;
  if (::strcasecmp(wanted.c_str(), "STATIC_PLUGIN") == 0) return ::dlopen(nullptr, RTLD_NOW);
  void* library = ::dlopen(wanted.c_str(), RTLD_NOW | RTLD_LOCAL);
  std::string why = library == nullptr ? ::dlerror() : "";
  if (library == nullptr && name != nullptr && *name != 0 && is_suffix(wanted)) {
    library = ::dlopen(("libnccl-profiler-" + wanted + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) why += std::string("; ") + ::dlerror();
  }
  if (library == nullptr) tell("profiler plugin: " + why);
  return library;
}

bool ProfilerPlugin::load() {
  if (is_loaded()) return true;
  if (failed_) return false;
  failed_ = true;  // until it has worked
  const char* name = std::getenv("NCCL_PROFILER_PLUGIN");
  if (name != nullptr && ::strcasecmp(name, "none") == 0) return false;
  library_ = open_library(name);
  if (library_ == nullptr) return false;
  auto* table = static_cast<const ProfilerTable*>(::dlsym(library_, "ncclProfiler_v6"));
  is_v5_ = table == nullptr;
  if (is_v5_) table = static_cast<const ProfilerTable*>(::dlsym(library_, "ncclProfiler_v5"));
  if (table == nullptr) {
    tell("profiler plugin: it has neither ncclProfiler_v6 nor ncclProfiler_v5");
    ::dlclose(library_);
    library_ = nullptr;
    return false;
  }
  tell(std::string("profiler plugin: loaded ") + table->name + (is_v5_ ? " (v5)" : " (v6)"));
  pid_ = ::getpid();
  failed_ = false;
  table_.store(table, std::memory_order_release);
  return true;
}

bool ProfilerPlugin::open(void** context, uint64_t comm_id, const char* comm_name, int nodes,
                          int nranks, int rank) {
  const std::lock_guard lock(loading_);
  if (!load()) return false;
  ++contexts_;
  const ProfilerTable& table = *table_.load();
  const int error = table.init(context, comm_id, &mask_, comm_name, nodes, nranks, rank, log);
  if (error == 0) {
    if (is_v5_) __atomic_fetch_and(&mask_, ~kCopyEngineEvents, __ATOMIC_RELAXED);
    return true;
  }
  tell("profiler plugin: init failed with " + std::to_string(error) + "; going on without");
  *context = nullptr;
  const std::unique_lock unused(in_use_);
  if (--contexts_ == 0) {
    table_.store(nullptr, std::memory_order_release);
    ::dlclose(library_);
    library_ = nullptr;
  }
  return false;
}

void ProfilerPlugin::close(void* context) {
  const std::lock_guard lock(loading_);
  const std::unique_lock unused(in_use_);
  if (context != nullptr) (void)table_.load()->finalize(context);
  if (--contexts_ > 0) return;
  table_.store(nullptr, std::memory_order_release);
  ::dlclose(library_);
  library_ = nullptr;
}

}  // namespace convoy::standin::nccl
