// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_NET_CHANGE_H_
#define HW_VIRTIO_NET_CHANGE_H_

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace vhost {

// Takes what is in both lists out of both, one for one, and leaves them sorted:
// what was removed and came back, or came and went, is no change.  `less` is a
// strict total order.  O(n log n).
template <typename T, typename Less>
void cancel_common(std::vector<T>& removed, std::vector<T>& added, Less less) {
  if (removed.size() <= 1 && added.size() <= 1) {  // Most changes.
    if (removed.empty() || added.empty() || less(removed[0], added[0]) ||
        less(added[0], removed[0]))
      return;
    removed.clear();
    added.clear();
    return;
  }
  const auto sort = [&less](std::vector<T>& list) {
    if (list.size() > 1) std::sort(list.begin(), list.end(), less);
  };
  sort(removed);
  sort(added);
  if (removed.empty() || added.empty()) return;

  size_t kept_removed = 0;
  size_t kept_added = 0;
  size_t r = 0;
  size_t a = 0;
  const auto keep = [](std::vector<T>& list, size_t& kept, size_t& at) {
    if (kept != at) list[kept] = std::move(list[at]);
    ++kept;
    ++at;
  };
  while (r < removed.size() && a < added.size()) {
    if (less(removed[r], added[a])) {
      keep(removed, kept_removed, r);
    } else if (less(added[a], removed[r])) {
      keep(added, kept_added, a);
    } else {
      ++r;
      ++a;
    }
  }
  while (r < removed.size()) keep(removed, kept_removed, r);
  while (a < added.size()) keep(added, kept_added, a);
  const auto cut = [](std::vector<T>& list, size_t size) {
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(size), list.end());
  };
  cut(removed, kept_removed);
  cut(added, kept_added);
}

}  // namespace vhost

#endif  // HW_VIRTIO_NET_CHANGE_H_
