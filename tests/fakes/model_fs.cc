// SPDX-License-Identifier: Apache-2.0
//
// The file system: its tree and what the guest holds of it.

#include "vhostdev/testing/model_fs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kRoot = 1;
constexpr size_t kTagSize = 36;

}  // namespace

ModelFs::ModelFs(ModelFsOptions options) : options_(std::move(options)) {
  absl::MutexLock lock(&mutex_);
  nodes_.emplace_back().folder = true;
}

absl::StatusOr<uint64_t> ModelFs::add_node(absl::string_view path,
                                           bool folder) {
  std::vector<absl::string_view> names =
      absl::StrSplit(path, '/', absl::SkipEmpty());
  if (names.empty()) return absl::InvalidArgumentError("an empty path");
  absl::MutexLock lock(&mutex_);
  uint64_t at = kRoot;
  for (size_t i = 0; i < names.size(); ++i) {
    const bool folder_here = folder || i + 1 < names.size();
    const auto known = nodes_[at - 1].children.find(names[i]);
    if (known != nodes_[at - 1].children.end()) {
      at = known->second;
      if (folder_here && nodes_[at - 1].folder) continue;
      return absl::InvalidArgumentError(absl::StrCat(path, ": is in the way"));
    }
    nodes_.emplace_back().folder = folder_here;
    nodes_[at - 1].children[std::string(names[i])] = nodes_.size();
    at = nodes_.size();
  }
  return at;
}

absl::Status ModelFs::add_file(absl::string_view path, std::string contents) {
  const absl::StatusOr<uint64_t> id = add_node(path, false);
  if (!id.ok()) return id.status();
  absl::MutexLock lock(&mutex_);
  nodes_[*id - 1].contents = std::move(contents);
  return absl::OkStatus();
}

absl::Status ModelFs::add_folder(absl::string_view path) {
  return add_node(path, true).status();
}

uint64_t ModelFs::lookups() const {
  absl::MutexLock lock(&mutex_);
  uint64_t sum = 0;
  for (const Node& node : nodes_) sum += node.lookups;
  return sum;
}

size_t ModelFs::open_files() const {
  absl::MutexLock lock(&mutex_);
  return open_.size();
}

bool ModelFs::initialized() const {
  absl::MutexLock lock(&mutex_);
  return initialized_;
}

std::vector<std::byte> ModelFs::config() const {
  if (options_.tag.empty()) return {};
  std::vector<std::byte> out(kTagSize + sizeof(uint32_t));
  std::memcpy(out.data(), options_.tag.data(),
              std::min(options_.tag.size(), kTagSize));
  std::memcpy(out.data() + kTagSize, &options_.request_queues,
              sizeof(uint32_t));
  return out;
}

absl::Status ModelFs::write_config(uint32_t offset,
                                   std::span<const std::byte> bytes,
                                   bool migration) {
  // A migration brings what the source had; here it is this device's own.
  if (migration) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "bytes ", offset, " to ", offset + bytes.size(), " are read-only"));
}

void ModelFs::reset() {
  absl::MutexLock lock(&mutex_);
  for (Node& node : nodes_) node.lookups = 0;
  open_.clear();
  initialized_ = false;
}

ModelFs::Node* ModelFs::find(uint64_t id) {
  if (id == 0 || id > nodes_.size()) return nullptr;
  Node& node = nodes_[id - 1];
  // What the guest does not hold is gone.
  return id == kRoot || node.lookups > 0 ? &node : nullptr;
}

void ModelFs::forget(uint64_t id, uint64_t count) {
  Node* const node = find(id);
  if (node == nullptr || id == kRoot) return;
  node->lookups -= std::min(node->lookups, count);
}

}  // namespace vhost::testing
