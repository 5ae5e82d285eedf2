// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_LOG_DEVICES_H_
#define TESTS_BENCH_LOG_DEVICES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_log.h"

namespace vhost::bench {

// A guest whose memory reaches as far as a log of a given size, and devices
// that run and log.
class LogDevices {
 public:
  // `log_size` in bytes, a multiple of 4096.
  LogDevices(size_t count, uint64_t log_size);
  ~LogDevices();
  LogDevices(const LogDevices&) = delete;
  LogDevices& operator=(const LogDevices&) = delete;

  // Writes `image` to the log as the back-ends would.
  void mark(std::span<const uint64_t> image);
  // MemoryListener::log_sync of all there is.
  void sync(DirtySink& sink);

 private:
  struct Device;

  testing::ManualEventLoop loop_;
  AddressSpace memory_;
  VhostContext context_{loop_, memory_};
  testing::RecordingBackendEvents events_;
  std::vector<std::unique_ptr<Device>> devices_;
  MemorySection all_;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_LOG_DEVICES_H_
