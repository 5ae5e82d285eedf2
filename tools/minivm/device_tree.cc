// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/device_tree.h"

#include <libfdt.h>

#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/layout.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {
namespace {

// Phandle of the interrupt controller.
constexpr uint32_t kPicPhandle = 1;
// What "interrupts" says of a line: it is edge triggered, rising.
constexpr uint32_t kRisingEdge = 1;
constexpr uint32_t kIsaIoSpace = 1;
constexpr uint32_t kPage = 4096;

// Writes a tree; the first error stays.
class TreeWriter {
 public:
  TreeWriter() : bytes_(kMaxTreeSize) {
    note(fdt_create_empty_tree(bytes_.data(), static_cast<int>(bytes_.size())),
         "/");
  }

  void* fdt() { return bytes_.data(); }

  int add_node(int parent, const std::string& name) {
    const int node = fdt_add_subnode(fdt(), parent, name.c_str());
    note(node, name);
    return node;
  }

  // A property of cells, of 32 bits each.
  void cells(int node, const char* name,
             std::initializer_list<uint32_t> values) {
    std::vector<fdt32_t> cells;
    for (const uint32_t value : values) cells.push_back(cpu_to_fdt32(value));
    note(fdt_setprop(fdt(), node, name, cells.data(),
                     static_cast<int>(cells.size() * sizeof(fdt32_t))),
         name);
  }

  // "reg" where an address and a size have two cells each.
  void reg(int node, uint64_t address, uint64_t size) {
    const auto high = [](uint64_t value) {
      return static_cast<uint32_t>(value >> 32);
    };
    cells(node, "reg",
          {high(address), static_cast<uint32_t>(address), high(size),
           static_cast<uint32_t>(size)});
  }

  void text(int node, const char* name, const std::string& value) {
    note(fdt_setprop(fdt(), node, name, value.c_str(),
                     static_cast<int>(value.size() + 1)),
         name);
  }

  void flag(int node, const char* name) {
    note(fdt_setprop(fdt(), node, name, nullptr, 0), name);
  }

  void note(int result, absl::string_view what) {
    if (result >= 0 || !status_.ok()) return;
    const std::string why = absl::StrCat(what, ": ", fdt_strerror(result));
    status_ = result == -FDT_ERR_NOSPACE ? absl::ResourceExhaustedError(why)
                                         : absl::InternalError(why);
  }
  void note(const absl::Status& status) { status_.Update(status); }

  absl::StatusOr<std::vector<std::byte>> finish() {
    note(fdt_pack(fdt()), "pack");
    if (!status_.ok()) return status_;
    bytes_.resize(fdt_totalsize(fdt()));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  absl::Status status_;
};

std::string at(const char* name, uint64_t address) {
  return absl::StrCat(name, "@", absl::Hex(address));
}

void add_cpus(TreeWriter& tree, uint32_t count) {
  const int cpus = tree.add_node(0, "cpus");
  tree.cells(cpus, "#address-cells", {1});
  tree.cells(cpus, "#size-cells", {0});
  for (uint32_t i = count; i != 0; --i) {
    const int cpu = tree.add_node(cpus, at("cpu", i - 1));
    tree.text(cpu, "device_type", "cpu");
    tree.text(cpu, "compatible", "x86-64");
    tree.cells(cpu, "reg", {i - 1});
  }
}

// Interrupt controller and serial port, which are reached by in and out.
void add_isa(TreeWriter& tree) {
  const int isa = tree.add_node(0, "isa");
  tree.text(isa, "device_type", "isa");
  tree.text(isa, "compatible", "isa");
  tree.cells(isa, "#address-cells", {2});
  tree.cells(isa, "#size-cells", {1});

  const int pic = tree.add_node(isa, "interrupt-controller@i20");
  tree.text(pic, "compatible", "intel,i8259");
  tree.flag(pic, "interrupt-controller");
  tree.cells(pic, "#interrupt-cells", {2});
  tree.cells(pic, "#address-cells", {0});
  tree.cells(pic, "phandle", {kPicPhandle});
  tree.cells(pic, "reg", {kIsaIoSpace, 0x20, 2, kIsaIoSpace, 0xa0, 2});

  const std::string name = absl::StrCat("serial@i", absl::Hex(kSerialPort));
  const int serial = tree.add_node(isa, name);
  tree.text(serial, "compatible", "ns16550a");
  tree.cells(serial, "reg", {kIsaIoSpace, kSerialPort, 8});
}

void add_memory(TreeWriter& tree, uint64_t size) {
  const int memory = tree.add_node(0, "memory@0");
  tree.text(memory, "device_type", "memory");
  tree.reg(memory, 0, size);
}

void add_mailbox(TreeWriter& tree) {
  const int mailbox = tree.add_node(0, at("mailbox", kMailboxGpa));
  tree.text(mailbox, "compatible", "vhostdev,mailbox");
  tree.reg(mailbox, kMailboxGpa, kPage);
}

// Each new node comes first among its neighbours, so the last comes first.
void add_devices(TreeWriter& tree, uint32_t count) {
  for (uint32_t i = count; i != 0; --i) {
    MmioNode node;
    node.gpa = device_gpa(i - 1);
    node.interrupt = {kDeviceGsis[i - 1], kRisingEdge};
    tree.note(add_mmio_node(tree.fdt(), 0, node));
  }
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> make_device_tree(
    const TreeOptions& options) {
  if (options.devices > kDeviceGsis.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.devices, " devices, at most ", kDeviceGsis.size()));
  }
  TreeWriter tree;
  tree.cells(0, "#address-cells", {2});
  tree.cells(0, "#size-cells", {2});
  tree.cells(0, "interrupt-parent", {kPicPhandle});
  tree.text(0, "compatible", "vhostdev,minivm");
  tree.text(0, "model", "minivm");
  add_devices(tree, options.devices);
  add_mailbox(tree);
  add_isa(tree);
  add_cpus(tree, options.cpus);
  add_memory(tree, options.memory);
  const int chosen = tree.add_node(0, "chosen");
  tree.text(chosen, "stdout-path",
            absl::StrCat("/isa/serial@i", absl::Hex(kSerialPort)));
  return tree.finish();
}

}  // namespace vhost::minivm
