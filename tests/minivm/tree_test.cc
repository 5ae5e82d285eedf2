// SPDX-License-Identifier: Apache-2.0
//
// The device tree, as dtc reads it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/peers/process.h"
#include "tools/minivm/device_tree.h"
#include "tools/minivm/files.h"
#include "tools/minivm/layout.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What dtc makes of a tree: its source, and what it complains about.
testing::Finished source_of(const TreeOptions& options) {
  const absl::StatusOr<std::vector<std::byte>> tree = make_device_tree(options);
  EXPECT_TRUE(tree.ok()) << tree.status();
  if (!tree.ok()) return {};
  const testing::TempDir dir;
  EXPECT_EQ(write_file(dir.file("dtb"), *tree), absl::OkStatus());
  return testing::run_program(
      {"dtc", "-I", "dtb", "-O", "dts", dir.file("dtb")});
}

TEST(MinivmTree, IsWhatTheVmHas) {
  const testing::Finished dts =
      source_of({.memory = 64 << 20, .cpus = 2, .devices = 2});
  ASSERT_EQ(dts.exit, 0) << dts.err;
  EXPECT_THAT(dts.err, IsEmpty());
  EXPECT_THAT(dts.out, HasSubstr("memory@0 {"));
  EXPECT_THAT(dts.out, HasSubstr("reg = <0x00 0x00 0x00 0x4000000>;"));
  EXPECT_THAT(dts.out, HasSubstr("cpu@0 {"));
  EXPECT_THAT(dts.out, HasSubstr("cpu@1 {"));
  EXPECT_THAT(dts.out, HasSubstr("mailbox@90000 {"));
  EXPECT_THAT(dts.out, HasSubstr("compatible = \"vhostdev,mailbox\";"));
  EXPECT_THAT(dts.out, HasSubstr("serial@i3f8 {"));
  EXPECT_THAT(dts.out, HasSubstr("virtio_mmio@d0000000 {"));
  EXPECT_THAT(dts.out, HasSubstr("virtio_mmio@d0001000 {"));
  EXPECT_THAT(dts.out, HasSubstr("reg = <0x00 0xd0001000 0x00 0x200>;"));
  EXPECT_THAT(dts.out, HasSubstr("interrupts = <0x06 0x01>;"));
  // The first device comes first.
  EXPECT_LT(dts.out.find("virtio_mmio@d0000000"),
            dts.out.find("virtio_mmio@d0001000"));
}

TEST(MinivmTree, FitsItsPlaceHoweverMuchThereIs) {
  const auto tree = make_device_tree(
      {.memory = kMaxRam, .cpus = 64, .devices = kDeviceGsis.size()});
  ASSERT_TRUE(tree.ok()) << tree.status();
  EXPECT_LE(tree->size(), kMaxTreeSize);
  const testing::Finished dts =
      source_of({.memory = kMaxRam, .cpus = 64, .devices = kDeviceGsis.size()});
  EXPECT_EQ(dts.exit, 0) << dts.err;
  EXPECT_THAT(dts.err, IsEmpty());
  EXPECT_THAT(dts.out, HasSubstr("cpu@3f {"));
}

TEST(MinivmTree, HasNoMoreDevicesThanInterrupts) {
  const auto tree = make_device_tree(
      {.memory = 1 << 20, .cpus = 1, .devices = kDeviceGsis.size() + 1});
  EXPECT_EQ(tree.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(MinivmTree, ThatIsTooLongIsAnError) {
  const auto tree =
      make_device_tree({.memory = 1 << 20, .cpus = 4096, .devices = 1});
  EXPECT_EQ(tree.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace vhost::minivm
