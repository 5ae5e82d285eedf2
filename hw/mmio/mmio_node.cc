// SPDX-License-Identifier: Apache-2.0
#include <libfdt.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {
namespace {

absl::Status fdt_status(int result, absl::string_view what) {
  if (result >= 0) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", fdt_strerror(result));
  switch (-result) {
    case FDT_ERR_NOSPACE:
      return absl::ResourceExhaustedError(message);
    case FDT_ERR_EXISTS:
      return absl::AlreadyExistsError(message);
    default:
      return absl::InvalidArgumentError(message);
  }
}

// Appends `value` as `cells` big-endian 32-bit cells.
absl::Status append_cells(void* fdt, int node, int cells, uint64_t value,
                          absl::string_view what) {
  if (cells < 1 || cells > 2 || (cells == 1 && value > UINT32_MAX)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "reg: ", what, " 0x", absl::Hex(value), " in ", cells, " cells"));
  }
  return fdt_status(
      cells == 1
          ? fdt_appendprop_u32(fdt, node, "reg", static_cast<uint32_t>(value))
          : fdt_appendprop_u64(fdt, node, "reg", value),
      "reg");
}

absl::Status fill(void* fdt, int node, int address_cells, int size_cells,
                  const MmioNode& what) {
  VHOST_RETURN_IF_ERROR(
      fdt_status(fdt_setprop_string(fdt, node, "compatible", "virtio,mmio"),
                 "compatible"));
  VHOST_RETURN_IF_ERROR(
      append_cells(fdt, node, address_cells, what.gpa, "address"));
  VHOST_RETURN_IF_ERROR(append_cells(fdt, node, size_cells, what.size, "size"));
  for (const uint32_t cell : what.interrupt) {
    VHOST_RETURN_IF_ERROR(fdt_status(
        fdt_appendprop_u32(fdt, node, "interrupts", cell), "interrupts"));
  }
  if (what.interrupt_parent != 0) {
    VHOST_RETURN_IF_ERROR(fdt_status(
        fdt_setprop_u32(fdt, node, "interrupt-parent", what.interrupt_parent),
        "interrupt-parent"));
  }
  if (what.dma_coherent) {
    VHOST_RETURN_IF_ERROR(fdt_status(
        fdt_setprop_empty(fdt, node, "dma-coherent"), "dma-coherent"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status add_mmio_node(void* fdt, int parent_offset, const MmioNode& what) {
  const std::string name = absl::StrCat("virtio_mmio@", absl::Hex(what.gpa));
  VHOST_RETURN_IF_ERROR(fdt_status(fdt_check_header(fdt), name));
  const int address_cells = fdt_address_cells(fdt, parent_offset);
  VHOST_RETURN_IF_ERROR(fdt_status(address_cells, name));
  const int size_cells = fdt_size_cells(fdt, parent_offset);
  VHOST_RETURN_IF_ERROR(fdt_status(size_cells, name));
  const int node = fdt_add_subnode(fdt, parent_offset, name.c_str());
  VHOST_RETURN_IF_ERROR(fdt_status(node, name));
  const absl::Status filled = fill(fdt, node, address_cells, size_cells, what);
  // All or nothing.
  if (!filled.ok()) fdt_del_node(fdt, node);
  return annotate(filled, name);
}

}  // namespace vhost
