// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/guarded_services.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "vhostdev/backend_services.h"
#include "vhostdev/vring.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class HostNotifiers final : public BackendServices {
 public:
  std::vector<QueueIndex> queues;

  absl::Status set_host_notifier(QueueIndex queue, HostNotifierArea) override {
    queues.push_back(queue);
    return absl::OkStatus();
  }
};

// The first two queues stay with the VMM.
const QueueMap& shifted() {
  static const QueueMap& map =
      *new QueueMap({std::nullopt, std::nullopt, BackendQueue{0}});
  return map;
}

TEST(GuardedServices, TellsTheVmmTheDevicesQueueOfAHostNotifier) {
  HostNotifiers vmm;
  GuardedServices services(&vmm, shifted());
  EXPECT_TRUE(services.set_host_notifier(QueueIndex{0}, {}).ok());
  EXPECT_THAT(vmm.queues, ElementsAre(QueueIndex{2}));
}

TEST(GuardedServices, RefusesAHostNotifierOfAQueueThatIsNotThere) {
  HostNotifiers vmm;
  GuardedServices services(&vmm, shifted());
  for (const uint32_t vq : {1u, 2u, 255u}) {
    EXPECT_EQ(services.set_host_notifier(QueueIndex{vq}, {}).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(vmm.queues, IsEmpty());
}

}  // namespace
}  // namespace vhost
