// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_log.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "hw/virtio/log_set.h"

namespace vhost {

VhostLog::Impl::Bitmap VhostLog::Impl::current() const {
  const absl::MutexLock lock(&mutex_);
  return current_;
}

std::vector<VhostLog::Impl::Bitmap> VhostLog::Impl::members() const {
  std::vector<Bitmap> out;
  const absl::MutexLock lock(&mutex_);
  for (const Replaced& each : replaced_) out.push_back(each.bitmap);
  if (current_ != nullptr) out.push_back(current_);
  return out;
}

VhostLog::Impl::Members VhostLog::Impl::look() const {
  Members out;
  const absl::MutexLock lock(&mutex_);
  for (const Replaced& each : replaced_) {
    // ORDER: counted before it is copied.  Another harvest that has it counts
    // as a device: then this one is not its last.
    if (each.bitmap.use_count() > 1) {
      out.held.push_back(each.bitmap);
    } else {
      out.free.push_back(each);
    }
  }
  out.current = current_;
  return out;
}

// What a harvest of `harvested`, while they were free, makes of them.
void VhostLog::Impl::step(const std::vector<Replaced>& harvested) {
  if (harvested.empty()) return;
  Bitmap unfit;  // Unmapped after the lock is released.
  const absl::MutexLock lock(&mutex_);
  for (const Replaced& done : harvested) {
    const auto found = std::find_if(
        replaced_.begin(), replaced_.end(),
        [&done](const Replaced& r) { return r.bitmap == done.bitmap; });
    if (found == replaced_.end()) continue;  // The log was turned off.
    if (done.detached && !done.swept) {
      found->swept = true;
      continue;
    }
    if (done.detached && done.bitmap->size() == current_->size() &&
        done.bitmap->shared() == current_->shared()) {
      unfit = std::exchange(spare_, done.bitmap);
    }
    replaced_.erase(found);
  }
}

void VhostLog::Impl::replace(Bitmap next) { replace(std::move(next), false); }

void VhostLog::Impl::detach(Bitmap next) { replace(std::move(next), true); }

void VhostLog::Impl::replace(Bitmap next, bool detached) {
  Bitmap unfit;  // Unmapped after the lock is released.
  {
    const absl::MutexLock lock(&mutex_);
    std::swap(current_, next);
    active_.store(current_ != nullptr, std::memory_order_release);
    if (next != nullptr) {
      replaced_.push_back({.bitmap = std::move(next), .detached = detached});
    }
    if (!detached) unfit = std::exchange(spare_, nullptr);
  }
  tidy();
}

VhostLog::Impl::Bitmap VhostLog::Impl::take_spare() {
  const absl::MutexLock lock(&mutex_);
  // A harvest that still has it would find what it did not come for.
  if (spare_ == nullptr || spare_.use_count() > 1) return nullptr;
  return std::exchange(spare_, nullptr);
}

void VhostLog::Impl::tidy() {
  // A VMM that has no use for the log yet may still plug memory.
  Members members = look();
  if (members.current == nullptr || members.free.size() <= kMostWaiting) return;
  for (Replaced& each : members.free) {
    members.current->absorb(*each.bitmap);
    each.detached = false;
  }
  step(members.free);
}

void VhostLog::Impl::stop() {
  std::vector<Replaced> done;  // Unmapped after the lock is released.
  Bitmap spare;
  const absl::MutexLock lock(&mutex_);
  done.swap(replaced_);
  done.push_back({.bitmap = std::exchange(current_, nullptr)});
  spare = std::exchange(spare_, nullptr);
  active_.store(false, std::memory_order_release);
}

uint64_t VhostLog::Impl::harvest(PageRange range, DirtySink& sink) {
  const Members members = look();
  if (members.current == nullptr) return 0;
  uint64_t pages = 0;
  for (const Bitmap& bitmap : members.held) {
    pages += bitmap->harvest(range, sink);
  }
  for (const Replaced& each : members.free) {
    // Once; then what a back-end should not have written any more is found.
    const bool quiet = each.detached && !each.swept;
    pages += each.bitmap->harvest(
        range, sink,
        quiet ? LogBitmap::Writers::kNone : LogBitmap::Writers::kSome);
    // What nobody asked for now is found in the current one later.
    if (!each.bitmap->lies_in(range)) members.current->absorb(*each.bitmap);
  }
  // ORDER: last, because pages of the others move to it.
  pages += members.current->harvest(range, sink);
  step(members.free);
  return pages;
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
  return impl_->harvest(pages_of(gpa, size), sink);
}

uint64_t VhostLog::harvest_all(DirtySink& sink) {
  return harvest(0, ~uint64_t{0}, sink);
}

void VhostLog::mark(uint64_t gpa, uint64_t size) {
  const Impl::Bitmap bitmap = impl_->current();
  if (bitmap != nullptr && size != 0) bitmap->mark(pages_of(gpa, size));
}

}  // namespace vhost
