// Loads the operators' CPU code when a program with torch first asks for devices: earlier torch is
// not there, later an operator may have run.
#include "src/standin/cudart/runtime.h"

#include <cstdio>
#include <dlfcn.h>
#include <mutex>

namespace convoy::standin {

void load_operators() {
  static std::once_flag once;
  // Not in programs without torch.
  void* torch = ::dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return;
  std::call_once(once, [] {
    Dl_info self;
    if (::dladdr(reinterpret_cast<void*>(&load_operators), &self) == 0) return;
    const std::string path = self.dli_fname;
    const std::string library = path.substr(0, path.rfind('/') + 1) + "libconvoy_standin_ops.so";
    if (::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return;
    machine().finding("no operators", std::string("can't load ") + library + ": " + ::dlerror());
  });
}

}  // namespace convoy::standin
