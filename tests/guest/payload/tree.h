// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_TREE_H_
#define TESTS_GUEST_PAYLOAD_TREE_H_

// What the payload takes from its device tree.  Freestanding, and safe with any
// bytes.
// Source: Devicetree Specification 0.4, "Flattened Devicetree (DTB) Format".

#include "tests/guest/payload/mailbox.h"

namespace vhost::payload {

struct TreeRange {
  u64 address = 0;
  u64 size = 0;
};

struct TreeDevice {
  TreeRange window;
  bool has_line = false;
  u32 line = 0;  // First cell of its interrupt.
};

struct TreeFacts {
  static constexpr u32 kMaxDevices = 16;
  static constexpr u32 kMaxMemory = 8;

  TreeRange mailbox;  // Size 0: there is none.
  TreeRange memory[kMaxMemory];
  u32 memories = 0;
  TreeDevice devices[kMaxDevices];  // "virtio,mmio", in the tree's order.
  u32 device_count = 0;
  u32 cpus = 0;
};

// Reads a tree of at most `size` bytes, whose header says how long it is.
class TreeReader {
 public:
  TreeReader(const unsigned char* bytes, u64 size)
      : bytes_(bytes), size_(size) {}

  // Null, or what is wrong with it.
  const char* read(TreeFacts& out);

 private:
  static constexpr u32 kMaxDepth = 16;

  struct Bytes {
    const unsigned char* at = nullptr;
    u32 size = 0;
  };
  // A node whose properties are being read.
  struct Node {
    Bytes compatible;
    Bytes type;
    Bytes reg;
    Bytes interrupts;
    bool mailbox = false;
    bool disabled = false;
    bool told = false;
    u32 address_cells = 2;  // Of its children.
    u32 size_cells = 1;
  };

  static u32 big(const unsigned char* at) {
    return static_cast<u32>(at[0]) << 24 | static_cast<u32>(at[1]) << 16 |
           static_cast<u32>(at[2]) << 8 | static_cast<u32>(at[3]);
  }
  u32 word(u64 offset) const { return big(bytes_ + offset); }

  // Whether the strings, each with a 0 behind it, have `wanted` among them.
  static bool has(Bytes strings, const char* wanted);
  static bool is(const char* text, const char* wanted);
  // The same for a node's name, with a unit address ("@90000") or without.
  static bool is_node(const char* text, const char* wanted);

  const char* header();
  // One token: moves on, and does what it says.
  const char* token(TreeFacts& out, bool& over);
  const char* begin_node(TreeFacts& out);
  const char* end_node(TreeFacts& out);
  const char* property();
  // The name at `offset` of the strings; null where there is none.
  const char* name(u32 offset) const;
  // All properties of the node are known.
  const char* tell(TreeFacts& out);
  // The first range of its reg.
  static bool range(const Node& node, const Node& parent, u32 index,
                    TreeRange& out);

  const unsigned char* const bytes_;
  u64 size_;
  u64 at_ = 0;   // In the structure.
  u64 end_ = 0;  // Of it.
  u64 strings_ = 0;
  u64 strings_end_ = 0;
  u32 depth_ = 0;  // Nodes that are open.
  bool seen_root_ = false;
  Node nodes_[kMaxDepth];
};

inline bool TreeReader::is(const char* text, const char* wanted) {
  while (*text != 0 && *text == *wanted) {
    ++text;
    ++wanted;
  }
  return *text == *wanted;
}

inline bool TreeReader::is_node(const char* text, const char* wanted) {
  while (*text != 0 && *text == *wanted) {
    ++text;
    ++wanted;
  }
  return *wanted == 0 && (*text == 0 || *text == '@');
}

inline bool TreeReader::has(Bytes strings, const char* wanted) {
  u32 begin = 0;
  for (u32 i = 0; i < strings.size; ++i) {
    if (strings.at[i] != 0) continue;
    if (is(reinterpret_cast<const char*>(strings.at) + begin, wanted)) {
      return true;
    }
    begin = i + 1;
  }
  return false;
}

inline const char* TreeReader::header() {
  constexpr u32 kMagic = 0xd00dfeed;
  constexpr u32 kHeader = 40;
  if (size_ < kHeader || word(0) != kMagic) return "tree: not a device tree";
  const u64 total = word(4);
  if (total < kHeader || total > size_) return "tree: longer than its place";
  size_ = total;
  constexpr u32 kVersion = 17;
  if (word(20) < kVersion || word(24) > kVersion) return "tree: wrong version";
  at_ = word(8);
  end_ = at_ + word(36);
  strings_ = word(12);
  strings_end_ = strings_ + word(32);
  if (at_ % 4 != 0 || end_ > size_ || strings_end_ > size_) {
    return "tree: a block outside of it";
  }
  return nullptr;
}

inline const char* TreeReader::read(TreeFacts& out) {
  if (const char* wrong = header()) return wrong;
  bool over = false;
  while (!over) {
    if (const char* wrong = token(out, over)) return wrong;
  }
  return nullptr;
}

inline const char* TreeReader::token(TreeFacts& out, bool& over) {
  constexpr u32 kBeginNode = 1;
  constexpr u32 kEndNode = 2;
  constexpr u32 kProperty = 3;
  constexpr u32 kNop = 4;
  constexpr u32 kEnd = 9;
  if (end_ - at_ < 4) return "tree: no end";
  const u32 what = word(at_);
  at_ += 4;
  switch (what) {
    case kBeginNode:
      return begin_node(out);
    case kEndNode:
      return end_node(out);
    case kProperty:
      return property();
    case kNop:
      return nullptr;
    case kEnd:
      over = true;
      return depth_ == 0 && seen_root_ ? nullptr : "tree: ends within a node";
    default:
      return "tree: unknown token";
  }
}

inline const char* TreeReader::begin_node(TreeFacts& out) {
  if (depth_ == 0 && seen_root_) return "tree: two roots";
  if (depth_ == kMaxDepth) return "tree: too deep";
  seen_root_ = true;
  if (depth_ > 0) {
    if (const char* wrong = tell(out)) return wrong;
  }
  const u64 begin = at_;
  while (at_ < end_ && bytes_[at_] != 0) ++at_;
  if (at_ == end_) return "tree: a name without end";
  at_ = (at_ + 4) & ~u64{3};
  if (at_ > end_) return "tree: no end";
  Node& node = nodes_[depth_++];
  node = Node{};
  const char* called = reinterpret_cast<const char*>(bytes_ + begin);
  node.mailbox = depth_ == 2 && is_node(called, "mailbox");
  return nullptr;
}

inline const char* TreeReader::end_node(TreeFacts& out) {
  if (depth_ == 0) return "tree: a node ends that did not begin";
  if (const char* wrong = tell(out)) return wrong;
  --depth_;
  return nullptr;
}

inline const char* TreeReader::name(u32 offset) const {
  if (offset >= strings_end_ - strings_) return nullptr;
  for (u64 i = strings_ + offset; i < strings_end_; ++i) {
    if (bytes_[i] == 0) {
      return reinterpret_cast<const char*>(bytes_ + strings_ + offset);
    }
  }
  return nullptr;
}

inline const char* TreeReader::property() {
  if (depth_ == 0) return "tree: a property outside of nodes";
  if (end_ - at_ < 8) return "tree: no end";
  const u32 size = word(at_);
  const char* called = name(word(at_ + 4));
  at_ += 8;
  if (size > end_ - at_) return "tree: a property longer than the tree";
  const Bytes value{bytes_ + at_, size};
  at_ = (at_ + size + 3) & ~u64{3};
  if (at_ > end_) return "tree: no end";
  if (called == nullptr) return "tree: a property without name";
  Node& node = nodes_[depth_ - 1];
  if (node.told) return "tree: a property behind a node";
  if (is(called, "compatible")) node.compatible = value;
  if (is(called, "device_type")) node.type = value;
  if (is(called, "reg")) node.reg = value;
  if (is(called, "interrupts")) node.interrupts = value;
  if (is(called, "status")) node.disabled = has(value, "disabled");
  if (is(called, "#address-cells") && size == 4) {
    node.address_cells = big(value.at);
  }
  if (is(called, "#size-cells") && size == 4) node.size_cells = big(value.at);
  return nullptr;
}

inline bool TreeReader::range(const Node& node, const Node& parent, u32 index,
                              TreeRange& out) {
  if (parent.address_cells < 1 || parent.address_cells > 2 ||
      parent.size_cells < 1 || parent.size_cells > 2) {
    return false;
  }
  const u32 bytes = 4 * (parent.address_cells + parent.size_cells);
  if (node.reg.size % bytes != 0 || node.reg.size / bytes <= index) {
    return false;
  }
  const unsigned char* at = node.reg.at + u64{bytes} * index;
  const auto number = [&at](u32 cells) {
    u64 value = 0;
    for (; cells > 0; --cells, at += 4) value = value << 32 | big(at);
    return value;
  };
  out.address = number(parent.address_cells);
  out.size = number(parent.size_cells);
  return true;
}

inline const char* TreeReader::tell(TreeFacts& out) {
  Node& node = nodes_[depth_ - 1];
  if (node.told) return nullptr;
  node.told = true;
  if (depth_ < 2 || node.disabled) return nullptr;
  const Node& parent = nodes_[depth_ - 2];
  if (has(node.type, "cpu")) ++out.cpus;
  if (has(node.type, "memory")) {
    TreeRange found;
    for (u32 i = 0; range(node, parent, i, found); ++i) {
      if (out.memories == TreeFacts::kMaxMemory) return "tree: much memory";
      out.memory[out.memories++] = found;
    }
  }
  if (node.mailbox && has(node.compatible, "vhostdev,mailbox") &&
      !range(node, parent, 0, out.mailbox)) {
    return "tree: a mailbox without reg";
  }
  if (!has(node.compatible, "virtio,mmio")) return nullptr;
  if (out.device_count == TreeFacts::kMaxDevices) return "tree: many devices";
  TreeDevice& device = out.devices[out.device_count];
  device = TreeDevice{};
  if (!range(node, parent, 0, device.window)) {
    return "tree: a device without reg";
  }
  device.has_line = node.interrupts.size >= 4;
  if (device.has_line) device.line = big(node.interrupts.at);
  ++out.device_count;
  return nullptr;
}

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_TREE_H_
