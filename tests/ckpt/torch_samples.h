#pragma once

#include "ckpt/formats/torch_zip.h"
#include "tests/ckpt/small_model.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/torch_files.h>

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

// Files of PyTorch's formats as export makes them, of a tiny model.
namespace convoy::ckpt {

struct TorchSamples {
  std::vector<std::byte> zip;       // of torch.save()
  std::vector<std::byte> pickle;    // its data.pkl
  std::vector<std::byte> metadata;  // of DCP
};

inline std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

inline TorchSamples make_torch_samples() {
  TempFolder folder;
  MemoryStore store;
  Catalog catalog(store);
  SmallModel model;
  model.width = 4;
  const bool saved =
      catalog.take_over({"job", 0, "test"}).ok() && save_small_model(model, catalog, store, 1).ok();
  const auto commit = catalog.latest();
  if (!saved || !commit.ok()) throw std::runtime_error("no small model");
  if (!export_torch(store, *commit, {folder / "x.pt", {}}).ok() ||
      !export_dcp(store, *commit, {folder / "dcp", {}}).ok()) {
    throw std::runtime_error("no export");
  }
  TorchSamples out{read_file(folder / "x.pt"), {}, read_file(folder / "dcp" + "/.metadata")};
  auto zip = TorchZip::open(out.zip, "sample");
  if (zip.ok()) out.pickle = zip->pickle().value();
  return out;
}

}  // namespace convoy::ckpt
