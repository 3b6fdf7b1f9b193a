#pragma once

#include <convoy/ckpt/store.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

// The promises that every store keeps, among them under several threads.
namespace convoy::ckpt {

// `make` gives an empty store each time.
void check_store(const std::function<std::unique_ptr<Store>()>& make);

// The file's bytes as text, or the name of the failure's code.
std::string content(Store& store, const std::string& path);
std::vector<std::string> paths(Store& store, const std::string& prefix);

}  // namespace convoy::ckpt
