// How classes are called and explained, and what to do about each.
#include <convoy/base/check.h>
#include <convoy/trace/verdict.h>

namespace convoy::trace {
namespace {

struct Text {
  const char* name;
  const char* description;
  const char* action;
};

constexpr Text kTexts[] = {
    {"UNKNOWN", "something is wrong, and the evidence does not say what",
     "look at the evidence; a higher trace level tells more"},
    {"SLOW_COMPUTE", "one rank computes more slowly than its peers",
     "check the GPU's clocks, temperature and ECC counters; replace the rank's machine"},
    {"SLOW_COMPUTE_PERIODIC", "one rank computes more slowly from time to time",
     "check cooling and power limits of its GPU"},
    {"SLOW_HOST", "all ranks of a host are slower than their peers",
     "check the host's power cap, clocks and neighbours; replace the host"},
    {"SLOW_NIC", "a rank's network is slow in both directions",
     "check the adapter's link speed, width and error counters"},
    {"SLOW_TX", "what a rank sends is slow",
     "check the adapter's transmit errors and retransmits, the cable and the switch port"},
    {"SLOW_RX", "what a rank receives is slow",
     "check the adapter's receive drops, pause frames and the receiving host"},
    {"SLOW_LINK", "one directed pair of ranks is slow, both are fast elsewhere",
     "check the path between the two: hash collisions, a bad cable between switches"},
    {"SLOW_FABRIC", "all links between two sets of hosts are slow",
     "check the switch or rail that they share"},
    {"LINK_FLAP", "a link is down or slow for moments",
     "check the port's link-down counter, the cable and the transceiver"},
    {"SLOW_INTRANODE", "links within a host are slow",
     "check NVLink and PCIe width, speed and replay counters"},
    {"DATALOADER_STALL", "a rank waits for its samples",
     "more workers or prefetching; check the storage of this rank's shard"},
    {"STORAGE_STALL", "ranks wait for the storage that they share",
     "check the file system's servers and quotas"},
    {"HOST_PAUSE", "ranks pause in turn",
     "collect garbage on all ranks at the same step, or switch it off within steps"},
    {"HOST_LAUNCH_BOUND", "a host hands work to its GPU too slowly",
     "look for other load on its cores; pin the process; use CUDA graphs"},
    {"CHECKPOINT_STALL", "checkpoints keep the training waiting",
     "save asynchronously, or less often; check the disk of the writing rank"},
    {"WARMUP", "first steps are slow", "nothing: it passes"},
    {"DESYNC_ORDER", "a rank calls the collectives of a group in another order",
     "make the order of calls the same on all ranks"},
    {"MISMATCH_SIZE", "a rank calls a collective with another size",
     "compare shapes at this call; pad or use a call for uneven sizes"},
    {"MISMATCH_DTYPE", "a rank calls a collective with another dtype",
     "compare dtypes at this call: the result is wrong even where nothing hangs"},
    {"MISMATCH_ROOT", "ranks disagree on a collective's root",
     "compute the root from what all ranks know alike"},
    {"MISMATCH_OP", "ranks disagree on a collective's reduction",
     "use the same reduction on all ranks: the result is wrong even where nothing hangs"},
    {"MISSING_CALL", "a rank has left out a collective",
     "look for a branch around this call that not all ranks take"},
    {"NOT_JOINED", "a rank has never come to its first collective",
     "look at the log of this rank's start"},
    {"CRASH", "a rank's process, or its host, has died",
     "look at its log and its exit code; restart from the last checkpoint"},
    {"HOST_HANG", "a rank's process is alive, and does not go on to the next call",
     "take stacks of its threads; its last open span says where"},
    {"GPU_STUCK", "an operation was called and does not start on the GPU",
     "look for a kernel that does not end, and at the driver's log (Xid)"},
    {"NET_HANG", "all ranks are in a collective, and it does not go on",
     "check the link: queue pairs, port state; restart without it"},
    {"DEADLOCK_CYCLE", "ranks wait for each other in several groups",
     "call the groups' collectives in one order on all ranks"},
    {"P2P_UNMATCHED", "a message is sent, and nobody receives it, or the reverse",
     "compare the schedules of the two ranks"},
    {"IMBALANCE_PP", "a pipeline stage has more to do than the others",
     "move layers from this stage to others"},
    {"IMBALANCE_EP", "experts get different numbers of tokens",
     "raise the balancing loss, or the capacity limit"},
    {"IMBALANCE_DATA", "ranks get samples of different length",
     "pack or sort samples so that ranks get equally many tokens"},
    {"TELEMETRY_LOSS", "nothing is heard of a rank, which goes on training",
     "restart its agent; the training is not concerned"},
    {"CLOCK_STEP", "a host's clock has jumped", "check its time service; the training is well"},
};
static_assert(std::size(kTexts) == kClasses);

const Text& text_of(Class c) {
  CONVOY_CHECK(static_cast<size_t>(c) < kClasses, "no such class");
  return kTexts[static_cast<size_t>(c)];
}

}  // namespace

const char* name_of(Class c) {
  return text_of(c).name;
}
const char* description_of(Class c) {
  return text_of(c).description;
}
const char* action_of(Class c) {
  return text_of(c).action;
}

}  // namespace convoy::trace
