// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MACHINE_FAKE_KVM_FILES_H_
#define TESTS_MINIVM_MACHINE_FAKE_KVM_FILES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace vhost::minivm {

// A machine of KVM with one vCPU, as requests for its state meet it: what was
// set is what is read, byte for byte, and nothing is made of it.
class FakeKvmFiles {
 public:
  // What a request returns, or -errno.  One file for all of them: no two
  // requests have the same number.
  int call(unsigned long request, void* argument);

  // MSRs, by number.
  std::map<uint32_t, uint64_t> msrs;
  std::set<uint32_t> unreadable_msrs;
  std::set<uint32_t> fixed_msrs;  // Cannot be set.
  // Requests that fail: "KVM_GET_XCRS" with EINVAL.
  std::map<std::string, int> failures;
  // What was set, in order: "SREGS", "MSR 0x10", "IRQCHIP 2".
  std::vector<std::string> journal;

 private:
  int list_msrs(void* argument) const;
  int get_msrs(void* argument) const;
  int set_msrs(void* argument);

  std::map<std::string, std::vector<std::byte>> kept_;  // By name.
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_MACHINE_FAKE_KVM_FILES_H_
