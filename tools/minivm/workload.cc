// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/workload.h"

#include <numeric>

namespace vhost::minivm {

uint64_t WorkloadReport::total_faults() const {
  return std::accumulate(faults.begin(), faults.end(), uint64_t{0}) +
         frame_faults + lost_interrupts + failed_requests +
         (failure.empty() ? 0 : 1);
}

}  // namespace vhost::minivm
