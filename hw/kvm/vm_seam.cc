// SPDX-License-Identifier: Apache-2.0
#include "hw/kvm/vm_seam.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

namespace vhost {
namespace {

class SystemVm final : public KvmVm {
 public:
  explicit SystemVm(FdRef vm) : vm_(vm) {}

  int ioctl(unsigned long request, void* arg) override {
    return ::ioctl(vm_.get(), request, arg) == 0 ? 0 : errno;
  }

  int extension(int capability) override {
    return std::max(0, ::ioctl(vm_.get(), KVM_CHECK_EXTENSION, capability));
  }

 private:
  FdRef vm_;
};

}  // namespace

std::unique_ptr<KvmVm> make_system_vm(FdRef vm) {
  return std::make_unique<SystemVm>(vm);
}

}  // namespace vhost
