#include "src/runtime/folder_store.h"

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sys/file.h>
#include <unistd.h>

namespace convoy::runtime {
namespace {

constexpr size_t kNameMax = 240;
constexpr char kHidden = '.';  // drafts and locks begin so; no key's file does
constexpr Nanos kLookFirst = std::chrono::microseconds(200);
constexpr Nanos kLookLast = std::chrono::milliseconds(10);

std::atomic<uint64_t> drafts{0};

std::string file_of(const std::string& key) {
  std::string name = "key=";
  for (const char c : key) {
    if (c == '/') {
      name += '=';
    } else if (c == '=' || c == '%' || std::isprint(static_cast<unsigned char>(c)) == 0) {
      char code[4];
      std::snprintf(code, sizeof code, "%%%02x", static_cast<unsigned char>(c));
      name += code;
    } else {
      name += c;
    }
  }
  TORCH_CHECK_WITH(DistStoreError, name.size() < kNameMax, "the key ", key, " is too long");
  return name;
}

}  // namespace

FolderStore::FolderStore(std::string folder) : folder_(std::move(folder)) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  TORCH_CHECK_WITH(DistStoreError, !error, "the store ", folder_,
                   " can't be made: ", error.message());
}

c10::intrusive_ptr<c10d::Store> FolderStore::clone() {
  auto store = c10::make_intrusive<FolderStore>(folder_);
  store->setTimeout(timeout_);
  return store;
}

std::string FolderStore::path_of(const std::string& key) const {
  return folder_ + "/" + file_of(key);
}

FolderStore::Value FolderStore::read(const std::string& key) const {
  std::ifstream file(path_of(key), std::ios::binary);
  if (!file) return std::nullopt;
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

// Not an AtomicFile: that waits for the disk, which ranks that form groups need not.
void FolderStore::set(const std::string& key, const std::vector<uint8_t>& value) {
  const std::string path = path_of(key);
  const std::string draft = folder_ + "/" + kHidden + std::to_string(::getpid()) + "." +
                            std::to_string(drafts.fetch_add(1));
  std::ofstream file(draft, std::ios::binary);
  file.write(reinterpret_cast<const char*>(value.data()),
             static_cast<std::streamsize>(value.size()));
  file.close();
  TORCH_CHECK_WITH(DistStoreError, file.good() && ::rename(draft.c_str(), path.c_str()) == 0,
                   "the key ", key, " can't be written to the store ", folder_);
}

std::vector<uint8_t> FolderStore::change(
    const std::string& key, const std::function<std::vector<uint8_t>(const Value&)>& next) {
  const std::string path = folder_ + "/" + kHidden + "lock." + file_of(key);
  const UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  TORCH_CHECK_WITH(DistStoreError, lock && ::flock(lock.get(), LOCK_EX) == 0, "the key ", key,
                   " can't be locked in the store ", folder_);
  const Value old = read(key);
  std::vector<uint8_t> value = next(old);
  if (!old || value != *old) set(key, value);
  return value;
}

std::vector<uint8_t> FolderStore::compareSet(const std::string& key,
                                             const std::vector<uint8_t>& expected,
                                             const std::vector<uint8_t>& desired) {
  if (!expected.empty() && !read(key)) return expected;  // as c10d's stores do
  return change(key, [&](const Value& old) {
    return old.value_or(std::vector<uint8_t>{}) == expected ? desired : old.value_or(expected);
  });
}

std::vector<uint8_t> FolderStore::get(const std::string& key) {
  wait({key}, timeout_);
  const Value value = read(key);
  TORCH_CHECK_WITH(DistStoreError, value, "the key ", key, " was deleted while it was read");
  return *value;
}

int64_t FolderStore::add(const std::string& key, int64_t value) {
  const std::vector<uint8_t> sum = change(key, [&](const Value& old) {
    const int64_t before = old ? std::stoll(std::string(old->begin(), old->end())) : 0;
    const std::string text = std::to_string(before + value);
    return std::vector<uint8_t>(text.begin(), text.end());
  });
  return std::stoll(std::string(sum.begin(), sum.end()));
}

bool FolderStore::deleteKey(const std::string& key) {
  return ::unlink(path_of(key).c_str()) == 0;
}

bool FolderStore::check(const std::vector<std::string>& keys) {
  return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) {
    return ::access(path_of(key).c_str(), F_OK) == 0;
  });
}

int64_t FolderStore::getNumKeys() {
  const std::filesystem::directory_iterator all(folder_);
  return std::count_if(begin(all), end(all), [](const auto& entry) {
    return entry.path().filename().string().front() != kHidden;
  });
}

void FolderStore::wait(const std::vector<std::string>& keys,
                       const std::chrono::milliseconds& timeout) {
  const Deadline deadline = Deadline::after(timeout);
  Nanos pause = kLookFirst;
  while (!check(keys)) {
    if (deadline.passed()) {
      std::string missing;
      for (const std::string& key : keys) {
        if (!check({key})) missing += (missing.empty() ? "" : ", ") + key;
      }
      C10_THROW_ERROR(DistStoreError,
                      "nobody has set " + missing + " in the store " + folder_ + " in time");
    }
    Clock::system().sleep_for(pause);
    pause = std::min(2 * pause, kLookLast);
  }
}

}  // namespace convoy::runtime
