// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_KVM_FAKE_VM_H_
#define TESTS_KVM_FAKE_VM_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "hw/kvm/vm_seam.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// KVM as KvmNotifiers meets it: what it keeps, what it refuses, and a guest
// that counts the rising edges of its interrupt lines.  Any thread.
class FakeVm {
 public:
  // The seam, for KvmNotifiers; it may outlive this.
  std::unique_ptr<KvmVm> seam() const;

  // What this KVM does not have; before KvmNotifiers is made.
  void without(int capability);
  // The next request with this name ("KVM_IRQFD deassign") fails.
  void fail_next(const std::string& request, int error);

  // What was asked, in order: "KVM_IOEVENTFD assign 3", "KVM_IRQFD deassign",
  // "KVM_IRQ_LINE 1".
  std::vector<std::string> take_journal();

  // The guest writes `value` to `gpa`; false: it exits to the VMM.
  bool write(uint64_t gpa, uint32_t value);
  // Edges until now.  Looking delivers what is signalled, as KVM does at once.
  uint64_t interrupts(uint32_t gsi = 5);
  size_t irqfds() const;
  size_t ioeventfds() const;

 private:
  class Seam;
  struct Core;
  std::shared_ptr<Core> core_ = make_core();
  static std::shared_ptr<Core> make_core();
};

}  // namespace vhost::testing

#endif  // TESTS_KVM_FAKE_VM_H_
