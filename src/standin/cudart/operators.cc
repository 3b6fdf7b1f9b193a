// Loads the operators' CPU code with torch, and puts it to use when a program first asks for
// devices: earlier torch hasn't registered its own, later an operator may have run.
#include "src/standin/cudart/runtime.h"

#include <cstdio>
#include <dlfcn.h>
#include <mutex>
#include <string_view>

namespace convoy::standin {
namespace {

std::string library_path() {
  Dl_info self;
  if (::dladdr(reinterpret_cast<void*>(&load_operators), &self) == 0) return "";
  const std::string path = self.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + "libconvoy_standin_ops.so";
}

}  // namespace

void prepare_operators(const void* fat_binary) {
  Dl_info owner;
  if (::dladdr(fat_binary, &owner) == 0 || owner.dli_fname == nullptr) return;
  if (!std::string_view(owner.dli_fname).ends_with("/libtorch_cuda.so")) return;
  static std::once_flag once;
  // What fails here is told by load_operators().
  std::call_once(once, [] { ::dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL); });
}

void load_operators() {
  static std::once_flag once;
  // Not in programs without torch.
  void* torch = ::dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return;
  std::call_once(once, [] {
    void* library = ::dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL);
    using Replace = void (*)();
    auto* replace = library == nullptr
                        ? nullptr
                        : reinterpret_cast<Replace>(::dlsym(library, "standin_replace_operators"));
    if (replace != nullptr) return replace();
    machine().finding("no operators",
                      std::string("can't load ") + library_path() + ": " + ::dlerror());
  });
}

}  // namespace convoy::standin
