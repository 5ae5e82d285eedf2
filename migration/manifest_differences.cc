// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhostdev/migration_manifest.h"

namespace vhost {
namespace {

// Features between VMM and back-end, which the guest knows nothing of.
constexpr FeatureSet kNotOfTheGuest = {kFeatureLogAll,
                                       kFeatureProtocolFeatures};

template <typename T>
const T* find_id(const std::vector<T>& all, uint32_t id) {
  const auto found = std::find_if(all.begin(), all.end(),
                                  [id](const T& one) { return one.id == id; });
  return found == all.end() ? nullptr : &*found;
}

// The sentences about one thing.
class Differences {
 public:
  explicit Differences(std::vector<std::string>& out) : out_(out) {}

  void about(std::string what) { what_ = absl::StrCat(what, ": "); }

  template <typename... Parts>
  void add(const Parts&... parts) {
    out_.push_back(absl::StrCat(what_, parts...));
  }
  template <typename T>
  void same(absl::string_view what, const T& source, const T& destination) {
    if (source == destination) return;
    add(what, " is ", source, ", the destination's is ", destination);
  }

 private:
  std::vector<std::string>& out_;
  std::string what_;
};

void compare_streams(const Manifest& source, const Manifest& destination,
                     Differences& out) {
  if (source.major != destination.major) {
    out.add("the stream is of version ", source.major, ".", source.minor,
            ", the destination knows ", destination.major, ".x");
  }
  const uint64_t known =
      destination.required_features | destination.optional_features;
  if (const uint64_t lacking = source.required_features & ~known; lacking) {
    out.add("the stream needs features 0x", absl::Hex(lacking),
            " that the destination does not know");
  }
  if (source.integrity == Integrity::kTransport &&
      destination.integrity == Integrity::kXxh3) {
    out.add("the records are not hashed, the destination insists on it");
  }
  out.same("the page size", source.page_size, destination.page_size);
}

void compare_blocks(const Manifest& source, const Manifest& destination,
                    Differences& out) {
  for (const RamBlock& block : source.blocks) {
    out.about(absl::StrCat("RAM block ", block.id, " (", block.name, ")"));
    const RamBlock* other = find_id(destination.blocks, block.id);
    if (other == nullptr) {
      out.add("the destination has none");
      continue;
    }
    out.same("its name", block.name, other->name);
    out.same("its address", block.gpa, other->gpa);
    out.same("its size", block.size, other->size);
  }
  for (const RamBlock& block : destination.blocks) {
    if (find_id(source.blocks, block.id) != nullptr) continue;
    out.about(absl::StrCat("RAM block ", block.id, " (", block.name, ")"));
    out.add("only the destination has one");
  }
}

void compare_queues(const DeviceManifest& source,
                    const DeviceManifest& destination, Differences& out) {
  out.same("the number of queues", source.queue_sizes.size(),
           destination.queue_sizes.size());
  const size_t both =
      std::min(source.queue_sizes.size(), destination.queue_sizes.size());
  for (size_t i = 0; i < both; ++i) {
    if (source.queue_sizes[i] <= destination.queue_sizes[i]) continue;
    out.add("queue ", i, " has ", source.queue_sizes[i],
            " descriptors, the destination at most ",
            destination.queue_sizes[i]);
  }
}

void compare_features(const DeviceManifest& source,
                      const DeviceManifest& destination, Differences& out) {
  FeatureSet used = source.acked - kNotOfTheGuest;
  used.set(kFeatureRingPacked, source.format == RingFormat::kPacked);
  const FeatureSet lacking = used - destination.offered;
  if (lacking.empty()) return;
  out.add("the guest uses features that the destination does not offer: ",
          absl::StrJoin(feature_names(source.virtio_id, lacking), " "));
}

void compare_state(const DeviceManifest& source,
                   const DeviceManifest& destination, Differences& out) {
  if (source.device_state && !destination.device_state) {
    out.add("the back-end has a state, the destination's takes none");
  }
  if (!source.inflight) return;
  const InflightLayout& here = *source.inflight;
  if (!destination.inflight) {
    out.add("the back-end has an inflight area, the destination's has none");
    return;
  }
  const InflightLayout& there = *destination.inflight;
  // A size may be unknown before the area exists.
  const bool sized = here.size != 0 && there.size != 0;
  if (here.queues != there.queues || here.queue_size != there.queue_size ||
      (sized && here.size != there.size)) {
    out.add("the inflight area is ", here.size, " bytes for ", here.queues,
            " queues of ", here.queue_size, ", the destination's is ",
            there.size, " bytes for ", there.queues, " queues of ",
            there.queue_size);
  }
}

void compare_devices(const DeviceManifest& source,
                     const DeviceManifest& destination, size_t blocks,
                     Differences& out) {
  out.same("its name", source.name, destination.name);
  out.same("the virtio id", source.virtio_id, destination.virtio_id);
  out.same("the class", source.device_class, destination.device_class);
  compare_queues(source, destination, out);
  compare_features(source, destination, out);
  if (blocks > destination.max_memory_slots) {
    out.add("there are ", blocks, " blocks of RAM, the destination takes ",
            destination.max_memory_slots);
  }
  out.same("the configuration's length", source.config_length,
           destination.config_length);
  compare_state(source, destination, out);
  for (const std::string& blocker : source.blockers) out.add(blocker);
  for (const std::string& blocker : destination.blockers) {
    out.add("at the destination: ", blocker);
  }
}

}  // namespace

std::vector<std::string> differences(const Manifest& source,
                                     const Manifest& destination) {
  std::vector<std::string> sentences;
  Differences out(sentences);
  compare_streams(source, destination, out);
  compare_blocks(source, destination, out);
  for (const DeviceManifest& device : source.devices) {
    out.about(device.name);
    const DeviceManifest* other = find_id(destination.devices, device.id);
    if (other == nullptr) {
      out.add("the destination has no device ", device.id);
      continue;
    }
    compare_devices(device, *other, source.blocks.size(), out);
  }
  for (const DeviceManifest& device : destination.devices) {
    if (find_id(source.devices, device.id) != nullptr) continue;
    out.about(device.name);
    out.add("only the destination has device ", device.id);
  }
  return sentences;
}

}  // namespace vhost
