#pragma once

#include <stddef.h>
#include <stdint.h>

// What the stand-in CUDA runtime (libcudart.so.13 of this folder) offers the other stand-ins: NCCL,
// the driver and the operators. C, so that each of them finds it with dlsym and links nothing.
//
// Threads: every function from any thread. Memory: `alias` is where stand-in work may touch what a
// device address names; the address itself faults when the program uses it.
#ifdef __cplusplus
extern "C" {
#endif

// Bytes that a piece of work touches. Device, pinned or ordinary memory; `write` 0 reads.
typedef struct StandinRange {
  const void* data;
  size_t bytes;
  int write;
} StandinRange;

typedef struct StandinWork {
  const char* name;  // "ncclAllReduce", "aten::add_"; copied
  // Runs on the stream's thread once all that it depends on is done.
  void (*run)(void* context);
  void (*drop)(void* context);  // called once, after run() or instead of it; may be null
  void* context;
  const StandinRange* ranges;  // copied
  size_t n_ranges;
} StandinWork;

// Queues the work on a cudaStream_t of the calling thread's current device and returns at once.
// 0, or a cudaError_t.
int standin_enqueue(void* stream, const StandinWork* work);
// Where stand-in work reads and writes device memory; other addresses come back unchanged.
void* standin_alias(const void* address);
// The device of an address, or -1.
int standin_device_of(const void* address);

// A device of a process of this machine, as another process of it reaches it. Plain bytes.
typedef struct StandinPeerDevice {
  int pid;
  int fd;
  int device;
  uint64_t inode;
  uint64_t bytes;
} StandinPeerDevice;
// False (0): there is no such device.
int standin_export_device(int device, StandinPeerDevice* out);
// Where the peer's device begins in this process: a device address, for standin_alias. Null and a
// text in `why` when the peer has gone or can't be reached.
void* standin_open_peer(const StandinPeerDevice* peer, char* why, size_t why_bytes);
// The device's first address in its own process.
void* standin_device_base(int device);

// Something that the program does wrong. `kind` is one of the report's names ("unknown kernel",
// "host access", "unsynchronised use", "collective mismatch", ...). Equal texts are counted, not
// repeated.
void standin_finding(const char* kind, const char* text);

// A finding for a call that the stand-in does not have. Returns 801, which is cudaErrorNotSupported
// and CUDA_ERROR_NOT_SUPPORTED.
int standin_unsupported(const char* call);
// Writes this process's findings and peaks so far to CONVOY_STANDIN_REPORT. Each new finding does
// so too; what counts as the end, and shows leaks, is the process's exit.
void standin_write_report(void);

#ifdef __cplusplus
}
#endif
