#pragma once

#include "src/standin/nccl/profiler_abi.h"

#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <string>

// The process's profiler plugin: loaded with the first communicator, closed with the last one.
namespace convoy::standin::nccl {

class ProfilerPlugin {
 public:
  static ProfilerPlugin& get();

  // Loads the plugin that NCCL_PROFILER_PLUGIN names, unless it is there, and lets it make a
  // context. False: there is none, or it refused; nothing is to be closed then.
  bool open(void** context, uint64_t comm_id, const char* comm_name, int nodes, int nranks,
            int rank);
  // Lets the plugin end the context, and closes the plugin with the last one. No call of this
  // process is in the plugin's hands meanwhile.
  void close(void* context);

  // For calls into the plugin: as long as this lives, neither contexts nor the plugin end.
  class Use {
   public:
    explicit Use(ProfilerPlugin& plugin);
    explicit operator bool() const { return table_ != nullptr; }
    const ProfilerTable* operator->() const { return table_; }

   private:
    std::shared_lock<std::shared_mutex> lock_;
    const ProfilerTable* table_ = nullptr;
  };

  bool is_loaded() const { return table_.load(std::memory_order_acquire) != nullptr; }
  // The one that all communicators' init get a pointer to; the plugin writes it at any time.
  int mask() const { return __atomic_load_n(&mask_, __ATOMIC_RELAXED); }
  pid_t pid() const { return pid_; }  // that loaded it

 private:
  bool load();
  void* open_library(const char* name);

  std::shared_mutex in_use_;
  std::mutex loading_;  // guards what follows; taken before in_use_
  int contexts_ = 0;
  bool failed_ = false;  // NCCL doesn't try again
  void* library_ = nullptr;
  std::atomic<const ProfilerTable*> table_{nullptr};
  bool is_v5_ = false;
  pid_t pid_ = 0;
  int mask_ = 0;
};

}  // namespace convoy::standin::nccl
