// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_KERNEL_IOTLB_FIXTURE_H_
#define TESTS_CONFORMANCE_KERNEL_IOTLB_FIXTURE_H_

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backends/kernel/vhost_net_ops.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"

namespace vhost::testing {

inline const Verb kBehindIommu =
    SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}};
inline const Verb kLogged = SetFeatures{
    {kFeatureVersion1, kFeatureAccessPlatform, kFeatureLogAll}, true};
inline const Verb kPlain = SetFeatures{{kFeatureVersion1}};

// A guest IOMMU that maps pages one by one.
class PagedIommu final : public BackendServices, public BackendSink {
 public:
  static constexpr uint64_t kPage = 4096;

  std::map<uint64_t, uint64_t> pages;   // iova -> gpa.
  std::optional<IotlbEntry> superpage;  // Answers what lies in it.
  std::vector<uint64_t> asked;
  std::vector<uint64_t> failed;
  std::vector<absl::Status> lost;
  std::function<void()> on_lost_do;

  absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                       IotlbAccess access) override {
    asked.push_back(iova);
    if (superpage.has_value() && iova - superpage->iova < superpage->size) {
      return *superpage;
    }
    const auto page = pages.find(iova & ~(kPage - 1));
    if (page == pages.end()) return absl::NotFoundError("not mapped");
    return IotlbEntry{page->first, kPage, page->second, access};
  }
  void iotlb_access_failed(uint64_t iova, IotlbAccess) override {
    failed.push_back(iova);
  }
  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue) override { return absl::OkStatus(); }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status& why) override {
    lost.push_back(why);
    if (on_lost_do) on_lost_do();
  }
  BackendServices& services() override { return *this; }
};

// Two queue pairs whose rings lie at iova kShift above their guest addresses.
class KernelIotlb : public ::testing::Test {
 protected:
  static constexpr uint64_t kShift = 0x1'0000'0000;

  KernelIotlb() {
    VhostNetOptions options;
    for (UniqueFd& tap : taps_) {
      tap = kernel_.make_tap();
      options.taps.emplace_back(tap);
    }
    ops_ = std::make_unique<VhostNetOps>(std::move(options), kernel_.system());
    ops_->attach(loop_.get(), &iommu_);
    for (uint64_t at = 0; at < Guest::kSize; at += PagedIommu::kPage) {
      iommu_.pages[kShift + Guest::kGpa + at] = Guest::kGpa + at;
    }
  }

  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  Configure configure() {
    Configure verb = guest_.configure();
    for (VringSetup& setup : verb.queues) {
      for (RingPart* part :
           {&setup.addr.desc, &setup.addr.avail, &setup.addr.used}) {
        part->gpa += kShift;
        part->user = 0;
      }
    }
    return verb;
  }
  // One translation for all rings.
  UpdateIotlb all_rings() const {
    return {.entry = {.iova = kShift + Guest::kGpa,
                      .size = Guest::kSize,
                      .gpa = Guest::kGpa,
                      .access = IotlbAccess::kBoth},
            .user = guest_.table()[0].user};
  }
  void start_with_translations() {
    ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
    ASSERT_EQ(do_verb(kBehindIommu), absl::OkStatus());
    Configure verb = configure();
    verb.iotlb.push_back(all_rings());
    ASSERT_EQ(do_verb(verb), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  }
  // The IOMMU answers with one superpage for all of memory.
  void start_with_a_superpage() {
    iommu_.superpage = all_rings().entry;
    ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
    ASSERT_EQ(do_verb(kBehindIommu), absl::OkStatus());
    ASSERT_EQ(do_verb(configure()), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  }
  // The first half of memory, where the rings are.
  std::vector<MemoryTableEntry> half() const {
    std::vector<MemoryTableEntry> table = guest_.table();
    table[0].size /= 2;
    return table;
  }
  // Memory without a ring comes and goes.
  void change_other_memory() {
    const auto more = Guest::memory(0x10000);
    std::vector<MemoryTableEntry> table = guest_.table();
    table.push_back(entry_at(0x40000000, more));
    ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
              absl::OkStatus());
    ASSERT_EQ(do_verb(UpdateMemory{diff_between(table, guest_.table())}),
              absl::OkStatus());
  }
  void turn() { ASSERT_TRUE(loop_->run_once(Duration::zero()).ok()); }
  auto& translations(size_t device) {
    return kernel_.open_devices()[device]->translations;
  }

  std::unique_ptr<EpollEventLoop> loop_ = *EpollEventLoop::create();
  FakeKernel kernel_;
  std::array<UniqueFd, 2> taps_;
  Guest guest_{4};
  PagedIommu iommu_;
  std::unique_ptr<VhostOps> ops_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_KERNEL_IOTLB_FIXTURE_H_
