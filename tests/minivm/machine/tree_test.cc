// SPDX-License-Identifier: Apache-2.0
//
// What the payload takes from a device tree, and what it refuses.
#include "tests/guest/payload/tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/minivm/machine/tree_bytes.h"

namespace vhost::payload {
namespace {

using minivm::TreeBytes;
using ::testing::HasSubstr;

// "" if it is right.
std::string read(const std::vector<uint8_t>& bytes, TreeFacts& facts) {
  const char* wrong = TreeReader(bytes.data(), bytes.size()).read(facts);
  return wrong == nullptr ? "" : wrong;
}
std::string read(const std::vector<uint8_t>& bytes) {
  TreeFacts facts;
  return read(bytes, facts);
}

TreeBytes whole_tree() {
  TreeBytes tree;
  tree.begin("").words("#address-cells", {2}).words("#size-cells", {2});
  tree.begin("mailbox@90000").string("compatible", "vhostdev,mailbox");
  tree.words("reg", {0, 0x90000, 0, 4096}).end();
  tree.begin("memory@0").string("device_type", "memory");
  tree.words("reg", {0, 0, 0, 0x4000000, 1, 0, 0, 0x100000}).end();
  tree.begin("cpus").words("#address-cells", {1}).words("#size-cells", {0});
  tree.begin("cpu@0").string("device_type", "cpu").words("reg", {0}).end();
  tree.begin("cpu@1").string("device_type", "cpu").words("reg", {1}).end();
  tree.end();
  tree.begin("virtio_mmio@d0000000").string("compatible", "virtio,mmio");
  tree.words("reg", {0, 0xd0000000, 0, 0x200}).words("interrupts", {5, 1});
  tree.end();
  tree.begin("virtio_mmio@d0001000").string("compatible", "virtio,mmio");
  tree.words("reg", {0, 0xd0001000, 0, 0x200}).end();
  tree.end();
  return tree;
}

TEST(PayloadTree, TellsWhatIsThere) {
  TreeFacts facts;
  ASSERT_EQ(read(whole_tree().bytes(), facts), "");
  EXPECT_EQ(facts.mailbox.address, 0x90000u);
  EXPECT_EQ(facts.mailbox.size, 4096u);
  ASSERT_EQ(facts.memories, 2u);
  EXPECT_EQ(facts.memory[0].size, 0x4000000u);
  EXPECT_EQ(facts.memory[1].address, u64{1} << 32);
  EXPECT_EQ(facts.cpus, 2u);
  ASSERT_EQ(facts.device_count, 2u);
  EXPECT_EQ(facts.devices[0].window.address, 0xd0000000u);
  EXPECT_EQ(facts.devices[0].window.size, 0x200u);
  EXPECT_TRUE(facts.devices[0].has_line);
  EXPECT_EQ(facts.devices[0].line, 5u);
  EXPECT_EQ(facts.devices[1].window.address, 0xd0001000u);
  EXPECT_FALSE(facts.devices[1].has_line);
}

TEST(PayloadTree, FindsAMailboxWithoutUnitAddressAndNoOtherNode) {
  TreeBytes tree;
  tree.begin("");
  tree.begin("mailboxes").string("compatible", "vhostdev,mailbox");
  tree.words("reg", {0, 0x1000, 4096}).end();
  tree.begin("mailbox").string("compatible", "vhostdev,mailbox");
  tree.words("reg", {0, 0x2000, 4096}).end();
  tree.end();
  TreeFacts facts;
  ASSERT_EQ(read(tree.bytes(), facts), "");
  EXPECT_EQ(facts.mailbox.address, 0x2000u);
}

TEST(PayloadTree, FollowsTheCellsOfAParent) {
  TreeBytes tree;
  tree.begin("").begin("soc").words("#address-cells", {1});
  tree.words("#size-cells", {1});
  tree.begin("v").string("compatible", "virtio,mmio");
  tree.words("reg", {0x1000, 0x200}).end().end().end();
  TreeFacts facts;
  ASSERT_EQ(read(tree.bytes(), facts), "");
  ASSERT_EQ(facts.device_count, 1u);
  EXPECT_EQ(facts.devices[0].window.address, 0x1000u);
}

TEST(PayloadTree, FindsOneOfSeveralCompatibleStrings) {
  TreeBytes tree;
  const std::string both("pci\0virtio,mmio\0", 16);
  tree.begin("").begin("v").property("compatible", {both.begin(), both.end()});
  tree.words("reg", {0, 0x1000, 0x200}).end().end();
  TreeFacts facts;
  ASSERT_EQ(read(tree.bytes(), facts), "");
  EXPECT_EQ(facts.device_count, 1u);
}

TEST(PayloadTree, LeavesOutWhatIsDisabled) {
  TreeBytes tree;
  tree.begin("").begin("v").string("compatible", "virtio,mmio");
  tree.string("status", "disabled").words("reg", {0, 0x1000, 0x200});
  tree.end().end();
  TreeFacts facts;
  ASSERT_EQ(read(tree.bytes(), facts), "");
  EXPECT_EQ(facts.device_count, 0u);
}

TEST(PayloadTree, RefusesEveryTruncation) {
  const std::vector<uint8_t> whole = whole_tree().bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    // Of its own, so that a read beyond its end is noticed.
    const std::vector<uint8_t> part(whole.begin(),
                                    whole.begin() + static_cast<long>(size));
    EXPECT_NE(read(part), "") << size;
  }
}

TEST(PayloadTree, RefusesWhatIsNoTree) {
  std::vector<uint8_t> bytes = whole_tree().bytes();
  bytes[0] = 0;
  EXPECT_THAT(read(bytes), HasSubstr("not a device tree"));
}

TEST(PayloadTree, RefusesATreeWithoutEnd) {
  EXPECT_THAT(read(whole_tree().bytes(/*finish=*/false)), HasSubstr("no end"));
}

TEST(PayloadTree, RefusesNodesThatDoNotMatch) {
  EXPECT_THAT(read(TreeBytes().begin("").bytes()), HasSubstr("within a node"));
  EXPECT_THAT(read(TreeBytes().end().bytes()), HasSubstr("did not begin"));
  EXPECT_THAT(read(TreeBytes().begin("").end().begin("").end().bytes()),
              HasSubstr("two roots"));
}

TEST(PayloadTree, RefusesATreeThatIsTooDeep) {
  TreeBytes tree;
  for (int i = 0; i < 17; ++i) tree.begin("n");
  EXPECT_THAT(read(tree.bytes()), HasSubstr("too deep"));
}

TEST(PayloadTree, RefusesAPropertyThatIsTooLong) {
  TreeBytes tree;
  tree.begin("").word(3).word(0xffffffff).word(0);
  EXPECT_NE(read(tree.bytes()), "");
}

TEST(PayloadTree, RefusesADeviceWithoutWindow) {
  TreeBytes tree;
  tree.begin("").begin("v").string("compatible", "virtio,mmio").end().end();
  EXPECT_THAT(read(tree.bytes()), HasSubstr("without reg"));
}

TEST(PayloadTree, RefusesMoreDevicesThanItHasPlaceFor) {
  TreeBytes tree;
  tree.begin("");
  for (u32 i = 0; i <= TreeFacts::kMaxDevices; ++i) {
    tree.begin("v").string("compatible", "virtio,mmio");
    tree.words("reg", {0, 0x1000, 0x200}).end();
  }
  EXPECT_THAT(read(tree.end().bytes()), HasSubstr("many devices"));
}

}  // namespace
}  // namespace vhost::payload
