#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/import.h>
#include <convoy/ckpt/safetensors.h>
#include <convoy/ckpt/store.h>

#include <functional>
#include <string>

// A step as files that PyTorch reads. (From such files: import.h.)
namespace convoy::ckpt {

struct TorchExport {
  std::string path;  // a file, or for DCP a folder; must not be there (DCP: or be empty)
  std::function<bool(const std::string&)> want;  // by name; default: all
};

// A file that torch.load(weights_only=True) reads: a dict of tensors and plain values, nested as
// the state dict was where the step tells how (else one dict of full names). Values that are not of
// convoy.checkpoint's form become bytes. All checksums are verified on the way; the file appears
// when all of it is on disk. kDataLoss names a damaged tensor; kInvalidArgument: nothing is wanted,
// or the file is there.
Result<Exported> export_torch(Store& store, const Commit& commit, const TorchExport& options,
                              const ByteProgress& progress = {});

// A folder that torch.distributed.checkpoint's dcp.load() reads in any layout: .metadata and one
// .distcp file. Else as above.
Result<Exported> export_dcp(Store& store, const Commit& commit, const TorchExport& options,
                            const ByteProgress& progress = {});

}  // namespace convoy::ckpt
