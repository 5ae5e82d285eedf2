// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_KEPT_KVM_H_
#define TESTS_MINIVM_KEPT_KVM_H_

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// Whether there is a KVM to use; from then on until the process ends it has a
// machine.  With the last one KVM switches the processors' extensions off, and
// an emulated computer may freeze when that happens too often.
inline bool keep_kvm() {
  static const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  static const UniqueFd kept(kvm.valid() ? ::ioctl(kvm.get(), KVM_CREATE_VM, 0)
                                         : -1);
  return kvm.valid();
}

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_KEPT_KVM_H_
