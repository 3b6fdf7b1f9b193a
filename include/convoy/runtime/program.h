#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <string>

namespace convoy::runtime {

// Exit codes of programs on Convoy's runtime: those of sysexits.h, so that they stay clear of the
// small codes that programs use themselves.
inline constexpr int kExitOk = 0;
inline constexpr int kExitUsage = 64;    // a bad option, mesh or setting
inline constexpr int kExitBadData = 65;  // a file is truncated, corrupt or of another version
inline constexpr int kExitNoInput = 66;  // a file is missing
inline constexpr int kExitUnavailable =
    69;                                   // a peer, the store or a port can't be reached or is gone
inline constexpr int kExitInternal = 70;  // a bug, ours or torch's
inline constexpr int kExitResources = 71;  // memory, descriptors
inline constexpr int kExitDeadline = 75;   // a peer did not come in time; trying again may help
inline constexpr int kExitSetup = 78;      // the installation is wrong: torch of another version

int exit_code_of(const Status& status);

// What the body returns, or the Status of the exception that it throws: a failed group's is that of
// its text (comm::Backend), kUnavailable if that says nothing.
Status attempt(const std::function<Status()>& body);

// Runs a program's body, and turns what it returns or throws into one paragraph on stderr and an
// exit code for main() to return. The only place in a program where exceptions become Status.
//
// What every rank finds out alike (bad options, bad files, a wrong installation) is said by rank 0
// only: the others wait up to 5 s for the launcher to end them, then speak too.
int run_program(const std::function<Status()>& body);

// Whether a library whose aoti_torch_abi_version() is `loaded` may stand in for the one that Convoy
// was compiled with: major and minor version must agree, since c10d's classes are not a stable
// interface. kFailedPrecondition names both versions.
Status check_torch_version(uint64_t compiled, uint64_t loaded);

}  // namespace convoy::runtime
