// SPDX-License-Identifier: Apache-2.0
// A back-end that is killed between any two of its stores, twice in a row, and
// what its driver sees of that.
//
// Exactly once means here: the driver sees each request completed exactly once;
// the device does its work at least once, and never after the driver saw it
// completed.  Between doing and showing lies a moment after which the work is
// done again: devices apply it idempotently.
#include <algorithm>
#include <optional>
#include <random>

#include "gtest/gtest.h"
#include "vhostdev/inflight.h"

namespace vhost {
namespace {

// The stores that a process makes before it is killed.
struct Life final : StoreObserver {
  explicit Life(uint64_t stores) : allowed(stores) {}

  bool may_store() override { return !killed; }
  void stored() override {
    ++made;
    killed = made == allowed;
  }
  // A store to the ring.
  template <typename T>
  void store(T& where, T value) {
    if (!may_store()) return;
    where = value;
    stored();
  }

  uint64_t allowed;
  uint64_t made = 0;
  bool killed = false;
};

constexpr uint64_t kLong = 1'000'000;

// What the driver knows of its requests: numbers from 0.
class Requests {
 public:
  explicit Requests(int count)
      : count_(count), seen_(unsigned(count)), done_(unsigned(count)) {}
  std::optional<int> next() {
    if (made_ == count_) return std::nullopt;
    return made_++;
  }
  bool all_seen() const { return completed_ == count_; }
  void work(int request) {
    ASSERT_LT(request, made_);
    EXPECT_FALSE(seen_[request]) << "request " << request << " ran again";
    done_[request] = true;
  }
  void complete(int request) {
    ASSERT_TRUE(done_[request]) << "request " << request << " never ran";
    ASSERT_FALSE(seen_[request]) << "request " << request << " seen twice";
    seen_[request] = true;
    ++completed_;
  }

 private:
  int count_;
  int made_ = 0;
  int completed_ = 0;
  std::vector<bool> seen_;
  std::vector<bool> done_;
};

// `count` of `pending`, chosen and ordered at random.
template <typename T>
std::vector<T> draw(std::vector<T>& pending, std::mt19937& random) {
  std::shuffle(pending.begin(), pending.end(), random);
  const size_t count = 1 + random() % pending.size();
  std::vector<T> out(pending.end() - static_cast<std::ptrdiff_t>(count),
                     pending.end());
  pending.resize(pending.size() - count);
  return out;
}

// -- Split ------------------------------------------------------------------

struct SplitRing {
  static constexpr uint16_t kSize = 4;
  static constexpr uint16_t kFirst = 65530;  // The indices wrap.

  void add() {
    const auto free = std::find(owner.begin(), owner.end(), -1);
    if (free == owner.end()) return;
    const std::optional<int> request = requests.next();
    if (!request) return;
    *free = *request;
    avail[avail_idx % kSize] = static_cast<uint16_t>(free - owner.begin());
    ++avail_idx;
  }
  void reap() {
    for (; seen_idx != used_idx; ++seen_idx) {
      int& request = owner[used[seen_idx % kSize]];
      ASSERT_GE(request, 0) << "a head that is not with the device";
      requests.complete(request);
      request = -1;
    }
  }

  Requests requests{14};
  std::vector<int> owner = std::vector<int>(kSize, -1);  // By head.
  uint16_t avail[kSize] = {};
  uint16_t used[kSize] = {};
  uint16_t avail_idx = kFirst;
  uint16_t used_idx = kFirst;
  uint16_t seen_idx = kFirst;
  std::vector<uint64_t> words = std::vector<uint64_t>(
      inflight_region_size(RingFormat::kSplit, kSize) / 8);
};

class SplitDevice {
 public:
  using Ring = SplitRing;

  SplitDevice(Ring& ring, Life& life)
      : ring_(ring),
        life_(life),
        inflight_(
            *SplitInflight::open(std::as_writable_bytes(std::span(ring.words)),
                                 Ring::kSize, &life)) {}

  void begin() {
    const absl::StatusOr<LostRing> lost =
        look_at_split(std::as_bytes(std::span(ring_.words)), Ring::kSize,
                      ring_.used_idx, ring_.avail_idx);
    ASSERT_TRUE(lost.ok()) << lost.status();
    const absl::StatusOr<std::vector<uint16_t>> heads =
        inflight_.recover(ring_.used_idx);
    ASSERT_TRUE(heads.ok()) << heads.status();
    EXPECT_EQ(heads->size(), lost->in_flight);
    EXPECT_EQ(lost->base, VringBase{ring_.used_idx});
    // Oldest first: requests are numbered in the order of being made.
    EXPECT_TRUE(std::is_sorted(heads->begin(), heads->end(),
                               [this](uint16_t a, uint16_t b) {
                                 return ring_.owner[a] < ring_.owner[b];
                               }));
    pending_ = *heads;
    next_avail_ = static_cast<uint16_t>(ring_.used_idx + heads->size());
  }

  void take() {
    if (next_avail_ == ring_.avail_idx) return;
    const uint16_t head = ring_.avail[next_avail_ % Ring::kSize];
    ++next_avail_;
    ASSERT_TRUE(inflight_.take(head).ok());
    if (!life_.killed) pending_.push_back(head);
  }

  void finish(std::mt19937& random) {
    if (pending_.empty()) return;
    uint16_t used_idx = ring_.used_idx;
    for (const uint16_t head : draw(pending_, random)) {
      if (life_.killed) return;
      ring_.requests.work(ring_.owner[head]);
      ASSERT_TRUE(inflight_.put(head).ok());
      life_.store(ring_.used[used_idx % Ring::kSize], head);
      ++used_idx;
    }
    life_.store(ring_.used_idx, used_idx);
    inflight_.commit(used_idx);
  }

 private:
  Ring& ring_;
  Life& life_;
  SplitInflight inflight_;
  std::vector<uint16_t> pending_;
  uint16_t next_avail_ = 0;
};

// -- Packed -----------------------------------------------------------------

constexpr uint16_t kNext = 1;
constexpr uint16_t kAvail = 1 << 7;
constexpr uint16_t kUsed = 1 << 15;

struct PackedRing {
  static constexpr uint16_t kSize = 5;

  void add() {
    const auto free = std::find(owner.begin(), owner.end(), -1);
    const auto count = static_cast<uint16_t>(1 + made % 3);
    if (free == owner.end() || room < count) return;
    const std::optional<int> request = requests.next();
    if (!request) return;
    ++made;
    room = static_cast<uint16_t>(room - count);
    *free = *request;
    length[free - owner.begin()] = count;
    for (uint16_t i = 0; i < count; ++i) {
      const uint16_t flags = avail.wrap ? kAvail : kUsed;
      desc[avail.index] = {
          .addr = static_cast<uint64_t>(*request),
          .len = i,
          .id = static_cast<uint16_t>(free - owner.begin()),
          .flags = static_cast<uint16_t>(flags | (i + 1 < count ? kNext : 0))};
      avail = advance(avail, 1, kSize);
    }
  }
  bool marked(PackedPosition at, bool used_mark) const {
    const uint16_t flags = desc[at.index].flags;
    return ((flags & kAvail) != 0) == at.wrap &&
           ((flags & kUsed) != 0) == (at.wrap == used_mark);
  }
  void reap() {
    while (marked(seen, true)) {
      const uint16_t id = desc[seen.index].id;
      ASSERT_LT(id, kSize);
      ASSERT_GE(owner[id], 0) << "an id that is not with the device";
      requests.complete(owner[id]);
      owner[id] = -1;
      seen = advance(seen, length[id], kSize);
      room = static_cast<uint16_t>(room + length[id]);
    }
  }

  Requests requests{14};
  int made = 0;
  uint16_t room = kSize;
  std::vector<int> owner = std::vector<int>(kSize, -1);  // By id.
  std::vector<uint16_t> length = std::vector<uint16_t>(kSize);
  PackedDescriptor desc[kSize] = {};
  PackedPosition avail;
  PackedPosition seen;
  std::vector<uint64_t> words = std::vector<uint64_t>(
      inflight_region_size(RingFormat::kPacked, kSize) / 8);
};

class PackedDevice {
 public:
  using Ring = PackedRing;

  PackedDevice(Ring& ring, Life& life)
      : ring_(ring),
        life_(life),
        inflight_(
            *PackedInflight::open(std::as_writable_bytes(std::span(ring.words)),
                                  Ring::kSize, &life)) {}

  void begin() {
    const auto flags = [this](uint16_t i) { return ring_.desc[i].flags; };
    const absl::StatusOr<LostRing> lost = look_at_packed(
        std::as_bytes(std::span(ring_.words)), Ring::kSize, flags);
    ASSERT_TRUE(lost.ok()) << lost.status();
    absl::StatusOr<PackedInflight::Recovered> out = inflight_.recover(
        ring_.seen, flags, [this](uint16_t i, uint16_t value) {
          life_.store(ring_.desc[i].flags, value);
        });
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ(out->requests.size(), lost->in_flight);
    EXPECT_EQ(out->used, ring_.seen);
    used_ = out->used;
    avail_ = out->avail;
    int newest = -1;
    for (const PackedInflight::Request& request : out->requests) {
      note(request.entry, request.descriptors);
      EXPECT_GT(pending_.back().request, newest) << "not oldest first";
      newest = pending_.back().request;
    }
  }

  void take() {
    if (!ring_.marked(avail_, false)) return;
    std::vector<PackedDescriptor> all;
    do {
      all.push_back(ring_.desc[avail_.index]);
      avail_ = advance(avail_, 1, Ring::kSize);
    } while ((all.back().flags & kNext) != 0);
    const absl::StatusOr<uint16_t> entry = inflight_.take(all);
    ASSERT_TRUE(entry.ok()) << entry.status();
    if (!life_.killed) note(*entry, all);
  }

  void finish(std::mt19937& random) {
    if (pending_.empty()) return;
    const std::vector<Pending> batch = draw(pending_, random);
    for (const Pending& one : batch) {
      if (life_.killed) return;
      ring_.requests.work(one.request);
      ASSERT_TRUE(inflight_.put(one.entry).ok());
    }
    inflight_.close_batch();
    const PackedPosition first = used_;
    used_ = advance(used_, batch.front().count, Ring::kSize);
    for (size_t i = 1; i < batch.size(); ++i) {
      show(used_, batch[i].id);
      used_ = advance(used_, batch[i].count, Ring::kSize);
    }
    show(first, batch.front().id);
    inflight_.commit();
  }

 private:
  struct Pending {
    int request;
    uint16_t entry;
    uint16_t id;
    uint16_t count;
  };

  void note(uint16_t entry, const std::vector<PackedDescriptor>& all) {
    pending_.push_back({static_cast<int>(all.front().addr), entry,
                        all.back().id, static_cast<uint16_t>(all.size())});
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(all[i].addr, all.front().addr);
      EXPECT_EQ(all[i].len, i);
    }
  }
  void show(PackedPosition at, uint16_t id) {
    life_.store(ring_.desc[at.index].id, id);
    const int flags = at.wrap ? kAvail | kUsed : 0;
    life_.store(ring_.desc[at.index].flags, static_cast<uint16_t>(flags));
  }

  Ring& ring_;
  Life& life_;
  PackedInflight inflight_;
  std::vector<Pending> pending_;
  PackedPosition used_;
  PackedPosition avail_;
};

// -- The two together -------------------------------------------------------

// Lives of `lives` stores each, and one that is long enough.  The stores that
// the first one made.
template <typename Device>
uint64_t run(uint32_t seed, std::vector<uint64_t> lives) {
  typename Device::Ring ring;
  lives.push_back(kLong);
  std::mt19937 random(seed);
  uint64_t stores = 0;
  for (size_t life_number = 0; life_number < lives.size(); ++life_number) {
    Life life(lives[life_number]);
    Device device(ring, life);
    device.begin();
    while (!life.killed && !ring.requests.all_seen()) {
      for (auto n = random() % 3; n > 0; --n) ring.add();
      for (auto n = random() % 3; n > 0 && !life.killed; --n) {
        device.take();
      }
      if (!life.killed && random() % 2 == 0) device.finish(random);
      ring.reap();
      if (::testing::Test::HasFailure()) return 0;
    }
    if (life_number == 0) stores = life.made;
    // Between two lives the driver goes on.
    if (random() % 2 == 0) ring.add();
  }
  EXPECT_TRUE(ring.requests.all_seen());
  return stores;
}

template <typename Device>
class InflightKill : public ::testing::Test {};
using Devices = ::testing::Types<SplitDevice, PackedDevice>;
TYPED_TEST_SUITE(InflightKill, Devices);

TYPED_TEST(InflightKill, AfterEveryStore) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const uint64_t stores = run<TypeParam>(seed, {kLong});
    ASSERT_GT(stores, 60u);
    for (uint64_t kill = 1; kill <= stores; ++kill) {
      run<TypeParam>(seed, {kill});
      ASSERT_FALSE(this->HasFailure()) << "seed " << seed << " store " << kill;
    }
  }
}

// Mostly in recover() itself.
TYPED_TEST(InflightKill, AgainAfterEachOfTheFirstStoresOfTheNextLife) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const uint64_t stores = run<TypeParam>(seed, {kLong});
    for (uint64_t kill = 1; kill <= stores; ++kill) {
      for (uint64_t again = 1; again < 11; ++again) {
        run<TypeParam>(seed, {kill, again, again / 2 + 1});
        ASSERT_FALSE(this->HasFailure())
            << "seed " << seed << " stores " << kill << ", " << again;
      }
    }
  }
}

}  // namespace
}  // namespace vhost
