// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_log.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "hw/virtio/log_bitmap.h"

namespace vhost {

VhostLog::Impl::Bitmap VhostLog::Impl::current() const {
  const absl::MutexLock lock(&mutex_);
  return current_;
}

std::vector<VhostLog::Impl::Bitmap> VhostLog::Impl::members() const {
  const absl::MutexLock lock(&mutex_);
  std::vector<Bitmap> out = replaced_;
  // ORDER: last, because tidy() moves pages from the others to it.
  if (current_ != nullptr) out.push_back(current_);
  return out;
}

void VhostLog::Impl::replace(Bitmap next) {
  {
    const absl::MutexLock lock(&mutex_);
    std::swap(current_, next);
    active_.store(current_ != nullptr, std::memory_order_release);
    if (next != nullptr) replaced_.push_back(std::move(next));
  }
  tidy();
}

void VhostLog::Impl::tidy() {
  std::vector<Bitmap> done;  // Unmapped after the lock is released.
  const absl::MutexLock lock(&mutex_);
  if (current_ == nullptr || replaced_.empty()) return;
  const auto held = std::stable_partition(
      replaced_.begin(), replaced_.end(),
      [](const Bitmap& bitmap) { return bitmap.use_count() > 1; });
  for (auto it = held; it != replaced_.end(); ++it) {
    current_->absorb(**it);
    done.push_back(std::move(*it));
  }
  replaced_.erase(held, replaced_.end());
}

void VhostLog::Impl::stop() {
  std::vector<Bitmap> done;
  const absl::MutexLock lock(&mutex_);
  done.swap(replaced_);
  done.push_back(std::exchange(current_, nullptr));
  active_.store(false, std::memory_order_release);
}

VhostLog::VhostLog() : impl_(std::make_unique<Impl>()) {}
VhostLog::~VhostLog() = default;

bool VhostLog::active() const { return impl_->active(); }

uint64_t VhostLog::size() const {
  const Impl::Bitmap bitmap = impl_->current();
  return bitmap == nullptr ? 0 : bitmap->size();
}

uint64_t VhostLog::harvest(uint64_t gpa, uint64_t size, DirtySink& sink) {
  if (size == 0) return 0;
  uint64_t pages = 0;
  {
    const std::vector<Impl::Bitmap> members = impl_->members();
    for (const Impl::Bitmap& bitmap : members) {
      pages += bitmap->harvest(pages_of(gpa, size), sink);
    }
  }
  // A bitmap that was let go of meanwhile was held here.
  impl_->tidy();
  return pages;
}

uint64_t VhostLog::harvest_all(DirtySink& sink) {
  return harvest(0, ~uint64_t{0}, sink);
}

void VhostLog::mark(uint64_t gpa, uint64_t size) {
  const Impl::Bitmap bitmap = impl_->current();
  if (bitmap != nullptr && size != 0) bitmap->mark(pages_of(gpa, size));
}

}  // namespace vhost
