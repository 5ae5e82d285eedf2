// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vring.h"

#include <algorithm>

namespace vhost {

QueueMap QueueMap::identity(uint32_t count) {
  std::vector<std::optional<BackendQueue>> backend;
  backend.reserve(count);
  for (uint32_t i = 0; i < count; ++i) backend.push_back(BackendQueue{i});
  return QueueMap(std::move(backend));
}

uint32_t QueueMap::backend_queues() const {
  return static_cast<uint32_t>(
      std::count_if(backend_.begin(), backend_.end(),
                    [](const auto& queue) { return queue.has_value(); }));
}

std::optional<BackendQueue> QueueMap::to_backend(QueueIndex vq) const {
  if (to_int(vq) >= backend_.size()) return std::nullopt;
  return backend_[to_int(vq)];
}

std::optional<QueueIndex> QueueMap::to_device(BackendQueue vq) const {
  // Nearly always the identity: look there first.
  if (to_int(vq) < backend_.size() && backend_[to_int(vq)] == vq) {
    return QueueIndex{to_int(vq)};
  }
  const auto found = std::find(backend_.begin(), backend_.end(), vq);
  if (found == backend_.end()) return std::nullopt;
  return QueueIndex{static_cast<uint32_t>(found - backend_.begin())};
}

}  // namespace vhost
