#pragma once

#include "ckpt/io/io_queue.h"
#include <convoy/ckpt/disk_file.h>

namespace convoy::ckpt {

// DiskEngine::create() with parts of the test's own.
Result<std::shared_ptr<DiskEngine>> make_disk_engine(const DiskOptions& options,
                                                     const DiskTestParts& parts);

}  // namespace convoy::ckpt
