// SPDX-License-Identifier: Apache-2.0
// Device-tree nodes, as libfdt and dtc read them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libfdt.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "vhostdev/virtio_mmio.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

// A tree with a root that has such cells.
class Tree {
 public:
  Tree(uint32_t address_cells, uint32_t size_cells, size_t bytes = 4096)
      : bytes_(bytes) {
    EXPECT_EQ(fdt_create_empty_tree(fdt(), static_cast<int>(bytes)), 0);
    EXPECT_EQ(fdt_setprop_u32(fdt(), 0, "#address-cells", address_cells), 0);
    EXPECT_EQ(fdt_setprop_u32(fdt(), 0, "#size-cells", size_cells), 0);
  }
  void* fdt() { return bytes_.data(); }
  std::vector<char>& bytes() { return bytes_; }

  std::vector<uint32_t> cells(const char* node, const char* property) {
    int size = 0;
    const int at = fdt_path_offset(fdt(), node);
    const void* data = fdt_getprop(fdt(), at, property, &size);
    std::vector<uint32_t> out;
    for (int i = 0; data != nullptr && i < size / 4; ++i) {
      out.push_back(fdt32_ld(static_cast<const fdt32_t*>(data) + i));
    }
    return out;
  }
  bool has(const char* node, const char* property) {
    const int at = fdt_path_offset(fdt(), node);
    return fdt_getprop(fdt(), at, property, nullptr) != nullptr;
  }

 private:
  std::vector<char> bytes_;
};

MmioNode node_at(uint64_t gpa) {
  MmioNode node;
  node.gpa = gpa;
  node.interrupt = {5, 1};
  node.interrupt_parent = 7;
  return node;
}

TEST(MmioNode, ListsWhatWasConfigured) {
  Tree tree(2, 2);
  ASSERT_TRUE(add_mmio_node(tree.fdt(), 0, node_at(0x1'd000'0200)).ok());
  const char* const path = "/virtio_mmio@1d0000200";
  int size = 0;
  const int at = fdt_path_offset(tree.fdt(), path);
  EXPECT_STREQ(static_cast<const char*>(
                   fdt_getprop(tree.fdt(), at, "compatible", &size)),
               "virtio,mmio");
  EXPECT_EQ(tree.cells(path, "reg"),
            (std::vector<uint32_t>{1, 0xd000'0200, 0, 0x200}));
  EXPECT_EQ(tree.cells(path, "interrupts"), (std::vector<uint32_t>{5, 1}));
  EXPECT_EQ(tree.cells(path, "interrupt-parent"), std::vector<uint32_t>{7});
  EXPECT_TRUE(tree.has(path, "dma-coherent"));
}

TEST(MmioNode, FollowsTheCellsOfItsParent) {
  Tree tree(1, 1);
  MmioNode node = node_at(0xd000'0000);
  node.interrupt_parent = 0;
  node.dma_coherent = false;
  ASSERT_TRUE(add_mmio_node(tree.fdt(), 0, node).ok());
  const char* const path = "/virtio_mmio@d0000000";
  EXPECT_EQ(tree.cells(path, "reg"),
            (std::vector<uint32_t>{0xd000'0000, 0x200}));
  EXPECT_FALSE(tree.has(path, "interrupt-parent"));
  EXPECT_FALSE(tree.has(path, "dma-coherent"));
}

TEST(MmioNode, AnAddressThatItsCellsDoNotHoldIsRefusedAndLeavesNothing) {
  Tree tree(1, 1);
  const absl::Status status =
      add_mmio_node(tree.fdt(), 0, node_at(0x1'0000'0000));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("virtio_mmio@100000000: reg: address 0x100000000 in 1"));
  EXPECT_LT(fdt_first_subnode(tree.fdt(), 0), 0);
}

TEST(MmioNode, SizesWithoutCellsAreRefused) {
  Tree tree(1, 0);
  EXPECT_EQ(add_mmio_node(tree.fdt(), 0, node_at(0x1000)).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(MmioNode, IsThereOnce) {
  Tree tree(2, 2);
  ASSERT_TRUE(add_mmio_node(tree.fdt(), 0, node_at(0x1000)).ok());
  EXPECT_EQ(add_mmio_node(tree.fdt(), 0, node_at(0x1000)).code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(MmioNode, ATreeWithoutRoomIsLeftAsItWas) {
  for (size_t room = 0; room < 240; room += 4) {
    Tree tree(2, 2);
    ASSERT_EQ(fdt_pack(tree.fdt()), 0);
    const auto used = fdt_totalsize(tree.fdt());
    ASSERT_EQ(
        fdt_open_into(tree.fdt(), tree.fdt(), static_cast<int>(used + room)),
        0);
    const absl::Status status = add_mmio_node(tree.fdt(), 0, node_at(0x1000));
    if (status.ok()) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_LT(fdt_first_subnode(tree.fdt(), 0), 0) << room;
  }
  FAIL() << "240 bytes are enough";
}

TEST(MmioNode, WhatIsNoTreeIsRefused) {
  std::vector<char> bytes(4096);
  EXPECT_EQ(add_mmio_node(bytes.data(), 0, node_at(0x1000)).code(),
            absl::StatusCode::kInvalidArgument);
  Tree tree(2, 2);
  EXPECT_EQ(add_mmio_node(tree.fdt(), 3, node_at(0x1000)).code(),
            absl::StatusCode::kInvalidArgument);
}

// What dtc prints of `tree`; its complaints too.
std::string run_dtc(Tree& tree) {
  std::string path = ::testing::TempDir() + "mmio_node_XXXXXX";
  const int fd = mkstemp(path.data());
  EXPECT_GE(fd, 0);
  const auto size = static_cast<size_t>(fdt_totalsize(tree.fdt()));
  EXPECT_EQ(::write(fd, tree.fdt(), size), static_cast<ssize_t>(size));
  ::close(fd);
  const std::string command = "dtc -I dtb -O dts " + path + " 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  std::string out;
  std::array<char, 4096> part;
  for (size_t got = 0; (got = fread(part.data(), 1, part.size(), pipe)) > 0;) {
    out.append(part.data(), got);
  }
  const int status = pclose(pipe);
  unlink(path.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
      << "is device-tree-compiler installed? " << out;
  return out;
}

TEST(MmioNode, PassesTheDeviceTreeCompiler) {
  Tree tree(2, 2);
  const int controller = fdt_add_subnode(tree.fdt(), 0, "interrupt-controller");
  fdt_setprop_empty(tree.fdt(), controller, "interrupt-controller");
  fdt_setprop_u32(tree.fdt(), controller, "#interrupt-cells", 2);
  fdt_setprop_u32(tree.fdt(), controller, "#address-cells", 0);
  fdt_setprop_u32(tree.fdt(), controller, "phandle", 7);
  ASSERT_TRUE(add_mmio_node(tree.fdt(), 0, node_at(0xd000'0000)).ok());
  ASSERT_TRUE(add_mmio_node(tree.fdt(), 0, node_at(0xd000'0200)).ok());
  const std::string source = run_dtc(tree);
  EXPECT_THAT(source, HasSubstr("virtio_mmio@d0000000 {"));
  EXPECT_THAT(source, HasSubstr("virtio_mmio@d0000200 {"));
  EXPECT_THAT(source, HasSubstr("reg = <0x00 0xd0000200 0x00 0x200>"));
  EXPECT_THAT(source, HasSubstr("interrupts = <0x05 0x01>"));
  EXPECT_THAT(source, testing::Not(HasSubstr("Warning")));
  EXPECT_THAT(source, testing::Not(HasSubstr("ERROR")));
}

}  // namespace
}  // namespace vhost
