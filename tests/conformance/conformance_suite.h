// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_CONFORMANCE_SUITE_H_
#define TESTS_CONFORMANCE_CONFORMANCE_SUITE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/faulty_ops.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// The guest's side of a back-end's queues.
struct ConformanceGuest {
  AddressSpace& memory;
  FakeNotifierBinding& notifiers;
};

// One back-end as the suite sees it: what any must do that VhostDev drives.
class ConformanceBackend {
 public:
  virtual ~ConformanceBackend() = default;

  // New ops for the same back-end.  Those made before were destroyed.
  virtual std::unique_ptr<VhostOps> connect() = 0;

  // What the guest accepts.
  virtual FeatureSet features() const { return {kFeatureVersion1}; }
  virtual uint32_t device_id() const { return kDeviceIdBlock; }
  virtual uint32_t queues() const { return 2; }
  // Bytes, the last of which a migration may write; 0: none.
  virtual uint32_t config_size() const { return 0; }

  // Whether it refuses to run while a ring is not set up.
  virtual bool needs_all_queues() const { return false; }

  // Makes `count` requests on `vq`, which `queue` describes, and sees them
  // completed.  False where this back-end cannot be made to.
  virtual bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                                 const VirtqueueConfig& queue, uint16_t count) {
    static_cast<void>(guest);
    static_cast<void>(vq);
    static_cast<void>(queue);
    static_cast<void>(count);
    return false;
  }

  // Whether a request on `vq` would be served, or come to be soon, iff
  // `serving`; true also where that cannot be seen.
  virtual bool settles(QueueIndex vq, bool serving) {
    static_cast<void>(vq);
    static_cast<void>(serving);
    return true;
  }
};

struct ConformanceFactory {
  std::string name;
  std::function<std::unique_ptr<ConformanceBackend>()> make;
};

inline std::ostream& operator<<(std::ostream& out,
                                const ConformanceFactory& factory) {
  return out << factory.name;
}

// The suite.  Another file, also in another binary that has
// conformance_suite.cc among its sources, gives it more back-ends:
//
//   INSTANTIATE_TEST_SUITE_P(Model, Conformance, ::testing::Values(factory),
//                            factory_name);
class Conformance : public ::testing::TestWithParam<ConformanceFactory> {
 protected:
  static constexpr uint64_t kRam = 0;
  static constexpr uint64_t kRamSize = 1 << 20;
  static constexpr uint64_t kRings = 1 << 16;
  static constexpr uint64_t kMore = 1 << 24;  // Where memory is plugged.

  Conformance();
  ~Conformance() override;

  // A device over new ops, not yet initialised.
  VhostDev& make_device();
  // The same over ops of which the n-th verb meets a fault.
  VhostDev& make_faulty_device(Fault fault, size_t n);

  absl::Status init();
  absl::Status start();
  absl::Status stop(StopReason reason = StopReason::kVmPause);
  // init and start, as a test's first lines.
  void run_device();

  bool complete_requests(QueueIndex vq, uint16_t count);
  bool serves(QueueIndex vq) { return backend_->settles(vq, true); }
  bool rests(QueueIndex vq) { return backend_->settles(vq, false); }

  std::unique_ptr<ConformanceBackend> backend_;
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  FakeVirtioDevice device_;
  FakeNotifierBinding notifiers_;
  RecordingBackendEvents events_;
  std::unique_ptr<VhostContext> context_;
  std::shared_ptr<const FaultyOps::Record> record_;
  std::unique_ptr<VhostDev> dev_;

 private:
  VhostDev& adopt(std::unique_ptr<VhostOps> ops);
};

inline std::string factory_name(
    const ::testing::TestParamInfo<ConformanceFactory>& info) {
  return info.param.name;
}

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_CONFORMANCE_SUITE_H_
