// SPDX-License-Identifier: Apache-2.0
//
// deadlock_test.cc through a whole device behind an IOMMU: at every message of
// what a VMM does, the back-end misses a translation, tells of a configuration
// change and waits for both answers before it goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/badinput/footprint.h"
#include "tests/user/channel_rig.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::user {
namespace {

using ::testing::IsEmpty;
using Moment = UserPeer::Moment;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kIova = uint64_t{1} << 40;

MemorySection dimm(uint64_t gpa) {
  auto region = MemoryRegion::create_memfd("dimm", kMiB);
  EXPECT_TRUE(region.ok()) << region.status();
  MemorySection out;
  out.gpa = gpa;
  out.size = kMiB;
  out.region = *region;
  return out;
}

// A VMM with an IOMMU that has one device of two queues.
class IommuVmm {
 public:
  IommuVmm() {
    EXPECT_NE(testing::add_memory(memory, 0, kMiB), nullptr);
    peer.protocol_features = ChannelRig::kProtocol | bit_mask(kProtocolMq);
    peer.features |= bit_mask(kFeatureAccessPlatform);
    guest.iommu = true;
    for (VirtqueueConfig& queue : guest.queues) {
      queue.desc_gpa += kIova;
      queue.avail_gpa += kIova;
      queue.used_gpa += kIova;
    }
    services.entries = {
        {.iova = kIova, .size = kMiB, .gpa = 0, .access = IotlbAccess::kBoth}};
    VhostDev::Options options;
    options.name = "disk";
    options.queues = QueueMap::identity(2);
    options.config_size = 16;
    dev =
        std::make_unique<VhostDev>(context, make_vhost_user_ops(peer.address()),
                                   guest, binding, events, &services, options);
  }

  // Both sides in turns; no time passes.
  absl::Status drive(absl::FunctionRef<void(Completion)> begin) {
    std::optional<absl::Status> out;
    begin([&out](absl::Status status) { out = std::move(status); });
    for (int turn = 0; turn < 1000 && !out.has_value(); ++turn) {
      loop.run_ready();
      peer.serve();
    }
    return out.value_or(absl::DeadlineExceededError("it never completed"));
  }
  absl::Status init() {
    absl::Status status =
        drive([this](Completion done) { dev->init(std::move(done)); });
    const FeatureSet accepted = {kFeatureVersion1, kFeatureAccessPlatform};
    status.Update(dev->ack_features(accepted, accepted));
    return status;
  }
  absl::Status start() {
    return drive([this](Completion done) { dev->start(std::move(done)); });
  }

  UserPeer peer;
  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  testing::FakeVirtioDevice guest{{.queues = 2, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  std::unique_ptr<VhostDev> dev;
};

struct Deed {
  const char* name;
  absl::Status (*prepare)(IommuVmm& vmm);
  void (*begin)(IommuVmm& vmm, Completion done);
};

absl::Status prepare_ready(IommuVmm& vmm) { return vmm.init(); }
absl::Status prepare_running(IommuVmm& vmm) {
  absl::Status status = vmm.init();
  status.Update(vmm.start());
  return status;
}

const Deed kDeeds[] = {
    {"Start", prepare_ready,
     [](IommuVmm& vmm, Completion done) { vmm.dev->start(std::move(done)); }},
    {"Stop", prepare_running,
     [](IommuVmm& vmm, Completion done) {
       vmm.dev->stop(StopReason::kVmPause, std::move(done));
     }},
    {"MemoryChange", prepare_running,
     [](IommuVmm& vmm, Completion done) {
       EXPECT_TRUE(vmm.memory.add(dimm(16 * kMiB)).ok());
       vmm.context.when_memory_settled(std::move(done));
     }},
    {"Invalidation", prepare_running,
     [](IommuVmm& vmm, Completion done) {
       vmm.dev->invalidate_iotlb(kIova + kMiB / 2, 4096, std::move(done));
     }},
    {"Config", prepare_running,
     [](IommuVmm& vmm, Completion done) {
       static constexpr std::byte kZero{0};
       vmm.dev->set_config(0, std::span(&kZero, 1), ConfigWriter::kDriver,
                           std::move(done));
     }},
};

class DeviceAndPeerWait : public ::testing::TestWithParam<Deed> {
 protected:
  // The values of the answers to a miss and a configuration change.
  static std::vector<uint64_t> ask(IommuVmm& vmm) {
    ByteVector both = ChannelRig::miss(kIova + 0x20000);
    const ByteVector change = ChannelRig::config_change();
    both.insert(both.end(), change.begin(), change.end());
    EXPECT_EQ(send_some(vmm.peer.channel(), both, {}).bytes, both.size());
    vmm.loop.run_ready();
    std::vector<uint64_t> out;
    std::array<std::byte, 20> space = {};
    while (receive_some(vmm.peer.channel(), space).bytes == space.size()) {
      out.push_back(*wire::read_prefix<uint64_t>(std::span(space).subspan(12)));
    }
    return out;
  }

  // Asks at message `at` of the deed; how many messages there were.
  static size_t at_one(Moment moment, size_t at) {
    IommuVmm vmm;
    const absl::Status prepared = GetParam().prepare(vmm);
    EXPECT_TRUE(prepared.ok()) << prepared;
    vmm.peer.seen.clear();
    const bool had_memory = vmm.dev->state() == DeviceState::kRunning;
    std::vector<uint64_t> answers;
    bool asked = false;
    vmm.peer.meanwhile = [&](const UserPeer::Message&, Moment now) {
      if (asked || now != moment || vmm.peer.seen.size() != at + 1) return;
      asked = true;
      answers = ask(vmm);
      // Before memory was told there is nothing to translate to.
      const bool told = had_memory || vmm.peer.count(Request::kAddMemReg) != 0;
      const std::vector<uint64_t> both_done = {0, 0};
      if (told) {
        EXPECT_EQ(answers, both_done);
      } else {
        EXPECT_EQ(answers.size(), 2u);
      }
    };

    const absl::Status status = vmm.drive(
        [&](Completion done) { GetParam().begin(vmm, std::move(done)); });

    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(asked || moment != Moment::kRead);
    vmm.loop.run_ready();
    EXPECT_THAT(vmm.events.broken_with, IsEmpty());
    EXPECT_EQ(vmm.events.config_changes, asked ? 1 : 0);
    // One of them answered the miss.
    return vmm.peer.seen.size() - (asked ? 1 : 0);
  }
};

TEST_P(DeviceAndPeerWait, AndNeitherForEver) {
  for (const Moment moment :
       {Moment::kRead, Moment::kHalfway, Moment::kAnswered}) {
    size_t messages = 1;
    for (size_t at = 0; at < messages; ++at) {
      SCOPED_TRACE(
          absl::StrCat("moment ", static_cast<int>(moment), ", message ", at));
      const auto before = badinput::Footprint::now();
      const auto began = std::chrono::steady_clock::now();
      messages = std::max(messages, at_one(moment, at));
      EXPECT_EQ(badinput::Footprint::now(), before);
      EXPECT_LT(std::chrono::steady_clock::now() - began,
                std::chrono::seconds(10));
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, DeviceAndPeerWait, ::testing::ValuesIn(kDeeds),
                         [](const ::testing::TestParamInfo<Deed>& info) {
                           return std::string(info.param.name);
                         });

}  // namespace
}  // namespace vhost::user
