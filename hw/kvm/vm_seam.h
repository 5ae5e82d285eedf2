// SPDX-License-Identifier: Apache-2.0
#ifndef HW_KVM_VM_SEAM_H_
#define HW_KVM_VM_SEAM_H_

#include <memory>

#include "vhostdev/unique_fd.h"

namespace vhost {

// What is asked of KVM about one virtual machine.  Tests put their own in place
// of the system's.  Any thread.
class KvmVm {
 public:
  virtual ~KvmVm() = default;

  // 0, or the errno of the failure.  Waits for nothing but the kernel's own
  // work.
  virtual int ioctl(unsigned long request, void* arg) = 0;

  // What KVM_CHECK_EXTENSION says of a KVM_CAP_*; 0: there is no such thing.
  virtual int extension(int capability) = 0;
};

// The real one; `vm` outlives it.
std::unique_ptr<KvmVm> make_system_vm(FdRef vm);

}  // namespace vhost

#endif  // HW_KVM_VM_SEAM_H_
