// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_MACHINE_H_
#define TESTS_MODEL_BASED_MACHINE_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tests/model_based/reference.h"
#include "tests/model_based/step.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::model_based {

// A back-end that a machine drives a device on, and what only it can see.
class FarSide {
 public:
  virtual ~FarSide() = default;

  virtual EventLoop& loop() = 0;
  virtual VhostDev::Options options() const = 0;
  // For a new device; the one before is destroyed.
  virtual std::unique_ptr<VhostOps> connect() = 0;

  // Does one operation to its end: what it said, or kUnknown if it did not end.
  virtual absl::Status drive(VhostDev& dev,
                             absl::FunctionRef<void(Completion)> start) = 0;
  // Does all that is due.
  virtual void settle() = 0;

  // Ends the connection from the other side.
  virtual void disconnect(VhostDev& dev) = 0;
  virtual void change_config(uint8_t value) = 0;
  virtual bool signal(uint32_t vq) = 0;
  // The base that a stop would find, where the back-end serves no rings.
  virtual void will_stop_at(uint32_t vq, uint16_t base) = 0;

  // Whether there is somebody who completes requests.
  virtual bool serves_rings() const { return false; }
  // Makes request number `index` of a ring; false if it is not completed.
  virtual bool request(AddressSpace& memory,
                       testing::FakeNotifierBinding& binding, QueueIndex vq,
                       const VirtqueueConfig& ring, uint16_t index) {
    static_cast<void>(memory);
    static_cast<void>(binding);
    static_cast<void>(vq);
    static_cast<void>(ring);
    static_cast<void>(index);
    return false;
  }

  // What of `reference` is not so over there; empty if all is.
  virtual std::string compare(const Reference& reference,
                              const AddressSpace& memory) = 0;

  // Starts `operation`, interrupts it as `how` says and lets everything end.
  // What went wrong, if something did.  The device may be gone afterwards.
  virtual std::string interrupt(std::unique_ptr<VhostDev>& dev,
                                AddressSpace& memory,
                                absl::FunctionRef<void(Completion)> operation,
                                const Interrupted& how) = 0;
};

// A VM with one device, taken through steps and compared with the reference
// after each.
class Machine {
 public:
  explicit Machine(FarSide& far);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // What is not as the reference says; empty if all is.
  std::string take(const Step& step);

  bool running() const { return reference_.running(); }

 private:
  static constexpr uint64_t kRam = 1 << 20;
  static constexpr uint64_t kPlugSize = 1 << 16;
  static constexpr uint64_t plug_gpa(uint32_t place) {
    return (uint64_t{place} + 2) << 26;  // Farther than a log of one page.
  }

  void make_device();
  std::string operate(absl::StatusCode expected,
                      absl::FunctionRef<void(Completion)> start);
  std::string start_some(const Step& step);
  std::string stop_some(const Step& step);
  std::string use_config(const Step& step);
  std::string change_memory(const Step& step);
  std::string change_log(bool on);
  std::string change_mask(const Step& step);
  void move_ring(const Step& step);
  std::string make_requests(const Step& step);
  std::string interrupted(const Interrupted& how);
  void write_rings();
  void announce_bases();

  std::string compare();
  std::string compare_queue(uint32_t vq);

  FarSide& far_;
  AddressSpace memory_;
  std::map<uint32_t, std::weak_ptr<const MemoryRegion>> plugged_;
  std::vector<std::weak_ptr<const MemoryRegion>> unplugged_;
  testing::FakeVirtioDevice guest_;
  testing::FakeNotifierBinding binding_;
  testing::RecordingBackendEvents events_;
  VhostContext context_;
  std::unique_ptr<VhostDev> dev_;
  Reference reference_;
};

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_MACHINE_H_
