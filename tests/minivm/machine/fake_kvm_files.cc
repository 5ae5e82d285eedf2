// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/machine/fake_kvm_files.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost::minivm {
namespace {

// Numbers within KVMIO: the sizes of some differ between C and C++.
struct Kind {
  unsigned get;
  unsigned set;
  const char* name;
};
constexpr Kind kKinds[] = {
    {_IOC_NR(KVM_GET_REGS), _IOC_NR(KVM_SET_REGS), "REGS"},
    {_IOC_NR(KVM_GET_SREGS), _IOC_NR(KVM_SET_SREGS), "SREGS"},
    {_IOC_NR(KVM_GET_MP_STATE), _IOC_NR(KVM_SET_MP_STATE), "MP_STATE"},
    {_IOC_NR(KVM_GET_XSAVE), _IOC_NR(KVM_SET_XSAVE), "XSAVE"},
    {_IOC_NR(KVM_GET_XCRS), _IOC_NR(KVM_SET_XCRS), "XCRS"},
    {_IOC_NR(KVM_GET_DEBUGREGS), _IOC_NR(KVM_SET_DEBUGREGS), "DEBUGREGS"},
    {_IOC_NR(KVM_GET_LAPIC), _IOC_NR(KVM_SET_LAPIC), "LAPIC"},
    {_IOC_NR(KVM_GET_VCPU_EVENTS), _IOC_NR(KVM_SET_VCPU_EVENTS), "VCPU_EVENTS"},
    {_IOC_NR(KVM_GET_CLOCK), _IOC_NR(KVM_SET_CLOCK), "CLOCK"},
    {_IOC_NR(KVM_GET_IRQCHIP), _IOC_NR(KVM_SET_IRQCHIP), "IRQCHIP"},
};

uint32_t first_word(const void* argument) {
  uint32_t word = 0;
  std::memcpy(&word, argument, sizeof(word));
  return word;
}

kvm_msr_entry* entries_of(void* argument) {
  return reinterpret_cast<kvm_msr_entry*>(static_cast<std::byte*>(argument) +
                                          8);
}

}  // namespace

int FakeKvmFiles::call(unsigned long request, void* argument) {
  const unsigned number = _IOC_NR(request);
  if (number == _IOC_NR(KVM_GET_MSR_INDEX_LIST)) return list_msrs(argument);
  if (number == _IOC_NR(KVM_GET_MSRS)) return get_msrs(argument);
  if (number == _IOC_NR(KVM_SET_MSRS)) return set_msrs(argument);
  for (const Kind& kind : kKinds) {
    if (number != kind.get && number != kind.set) continue;
    const bool sets = number == kind.set;
    std::string name = kind.name;
    const auto failure =
        failures.find(absl::StrCat("KVM_", sets ? "SET_" : "GET_", name));
    if (failure != failures.end()) return -failure->second;
    if (name == "IRQCHIP") absl::StrAppend(&name, " ", first_word(argument));
    auto& bytes = kept_[name];
    bytes.resize(_IOC_SIZE(request));
    if (sets) {
      journal.push_back(name);
      std::memcpy(bytes.data(), argument, bytes.size());
    } else {
      std::memcpy(argument, bytes.data(), bytes.size());
    }
    return 0;
  }
  return -ENOTTY;
}

int FakeKvmFiles::list_msrs(void* argument) const {
  const uint32_t room = first_word(argument);
  const auto count = static_cast<uint32_t>(msrs.size());
  std::memcpy(argument, &count, sizeof(count));
  if (room < count) return -E2BIG;
  auto* at = static_cast<std::byte*>(argument);
  for (const auto& [index, value] : msrs) {
    at += sizeof(index);
    std::memcpy(at, &index, sizeof(index));
  }
  return 0;
}

int FakeKvmFiles::get_msrs(void* argument) const {
  const uint32_t count = first_word(argument);
  if (count > 256) return -E2BIG;
  for (uint32_t i = 0; i < count; ++i) {
    kvm_msr_entry& entry = entries_of(argument)[i];
    const auto found = msrs.find(entry.index);
    if (found == msrs.end() || unreadable_msrs.contains(entry.index)) {
      return static_cast<int>(i);
    }
    entry.data = found->second;
  }
  return static_cast<int>(count);
}

int FakeKvmFiles::set_msrs(void* argument) {
  const uint32_t count = first_word(argument);
  if (count > 256) return -E2BIG;
  for (uint32_t i = 0; i < count; ++i) {
    const kvm_msr_entry& entry = entries_of(argument)[i];
    if (!msrs.contains(entry.index) || fixed_msrs.contains(entry.index)) {
      return static_cast<int>(i);
    }
    journal.push_back(absl::StrCat("MSR 0x", absl::Hex(entry.index)));
    msrs[entry.index] = entry.data;
  }
  return static_cast<int>(count);
}

}  // namespace vhost::minivm
