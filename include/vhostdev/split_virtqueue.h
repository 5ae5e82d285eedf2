// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_SPLIT_VIRTQUEUE_H_
#define VHOSTDEV_SPLIT_VIRTQUEUE_H_

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/cxx20.h"

namespace vhost {

struct SplitRingState;

static_assert(std::endian::native == std::endian::little,
              "virtio 1 rings are little-endian");

// One buffer of a request, as it lies in the descriptor table or in an indirect
// table.  Source: VIRTIO 1.3, "The Virtqueue Descriptor Table".
struct VringDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(VringDesc) == 16);

inline constexpr uint16_t kVringDescNext = 1;
inline constexpr uint16_t kVringDescWrite = 2;
inline constexpr uint16_t kVringDescIndirect = 4;
inline constexpr uint16_t kVringAvailNoInterrupt = 1;
inline constexpr uint16_t kVringUsedNoNotify = 1;

// Most descriptors of a split ring.
inline constexpr uint32_t kMaxSplitRingSize = 32768;

// Where the parts of a ring of `num` descriptors lie, in bytes from a start
// aligned to 128.  No two parts share a cache line, nor a pair that is fetched
// together: the two sides write different parts.
struct SplitRingLayout {
  uint64_t desc_size = 0;
  uint64_t avail_offset = 0;
  uint64_t avail_size = 0;
  uint64_t used_offset = 0;
  uint64_t used_size = 0;
  uint64_t total = 0;
};

// `num`: at most kMaxSplitRingSize.
constexpr SplitRingLayout split_ring_layout(uint32_t num) {
  constexpr auto round_up = [](uint64_t value) {
    return (value + 127) & ~127u;
  };
  SplitRingLayout out;
  out.desc_size = uint64_t{16} * num;
  out.avail_offset = round_up(out.desc_size);
  out.avail_size = uint64_t{6} + uint64_t{2} * num;
  out.used_offset = round_up(out.avail_offset + out.avail_size);
  out.used_size = uint64_t{6} + uint64_t{8} * num;
  out.total = round_up(out.used_offset + out.used_size);
  return out;
}

// A request that the device is done with.  Has no initializers on purpose:
// clearing an array of these takes longer than a poll.
struct RingCompletion {
  uint64_t cookie;
  uint32_t written;  // Bytes, as the device says; at most what was writable.
};

// The driver's side of a split virtqueue: ring logic over memory, no transport
// and no system call.  Addresses in descriptors are the device's (guest
// physical); they are carried, not looked at.
//
// The device is not trusted.  What it may write (the used ring, the event
// index) is read once and checked; what it must not write (descriptors, the
// available ring) is never read back.  A device that breaks the rules breaks
// the queue: status() says how, and nothing more is taken from the ring.
//
// Thread: one owner at a time; the device's side may be any other thread or
// process on this machine.  Orders memory as among processors: not for hardware
// that negotiated ORDER_PLATFORM.
//
// Source: VIRTIO 1.3, "Split Virtqueues".
class SplitVirtqueue {
 public:
  struct Options {
    uint32_t num = 0;            // Descriptors: a power of 2, at most 32768.
    std::byte* desc = nullptr;   // 16-byte aligned, 16 * num bytes.
    std::byte* avail = nullptr;  // 2-byte aligned, 6 + 2 * num bytes.
    std::byte* used = nullptr;   // 4-byte aligned, 6 + 8 * num bytes.
    bool event_index = false;    // EVENT_IDX was accepted.

    // Indirect tables, if INDIRECT_DESC was accepted: `num` tables of
    // `indirect_entries` descriptors one behind the other; null: none.
    // Requests of more than one descriptor then take one slot of the ring.
    std::byte* indirect = nullptr;  // 16-byte aligned.
    uint64_t indirect_gpa = 0;      // Where the device sees it.
    uint32_t indirect_entries = 0;  // At most `num`.

    uint16_t first_index = 0;  // Where both indices start.
  };

  class Request;

  // Lays an empty ring out, interrupts off.  The device must not be running on
  // this memory, which outlives the queue.
  // Errors: kInvalidArgument  a size that is not a power of 2 up to 32768, a
  //                           missing or misaligned part.
  static absl::StatusOr<std::unique_ptr<SplitVirtqueue>> create(
      const Options& options);

  // What this queue knows that does not lie in the ring.  It goes on as it was.
  // Errors: kFailedPrecondition  a request is open.
  //         status()             the queue is broken or was taken back.
  absl::StatusOr<SplitRingState> save() const;

  // Goes on where another queue stopped, with a ring that holds what that one's
  // did; it is read to check that, and otherwise left alone.  `first_index` is
  // not looked at; the indirect tables hold what those of that queue did.
  // Errors: kInvalidArgument  as create(), or a state that no queue of that
  //                           size can have.
  //         kDataLoss         the ring's indices are not of this state.
  static absl::StatusOr<std::unique_ptr<SplitVirtqueue>> restore(
      const Options& options, const SplitRingState& state);

  SplitVirtqueue(const SplitVirtqueue&) = delete;
  SplitVirtqueue& operator=(const SplitVirtqueue&) = delete;

  // Opens a request of at most `max_descriptors`; using fewer is fine.  The
  // ring does not change before submit().  One request is open at a time.
  // `cookie` comes back in its RingCompletion.  If it cannot be opened, the
  // Request is not ok() and says why; nothing can be done with it.
  // Errors: kInvalidArgument     more than max_chain(), or none: never works.
  //         kResourceExhausted   not enough free now: poll, then again.
  //         kFailedPrecondition  another request is open.
  //         status()             the queue is broken or was taken back.
  Request begin(uint32_t max_descriptors, uint64_t cookie);

  // Shows the device everything submitted since the last call, all at once, and
  // says whether it must be notified; false if that was nothing.  Costs a full
  // fence: call it once per batch.
  [[nodiscard]] bool publish();

  // Takes finished requests, at most out.size(); the number taken.  Those in
  // front of a broken entry are still returned; the error comes with the next
  // call.
  // Errors: kFailedPrecondition  a request is open: submit or cancel it first.
  //         status()             the queue is broken or was taken back.
  absl::StatusOr<size_t> poll(std::span<RingCompletion> out);

  // Whether poll() has something to say: completions, or that the queue is
  // broken or was taken back.  One load: what spins on a ring spins on this.
  bool has_completions() const {
    return used_idx().load_acquire() != next_used_;
  }

  // Asks for a signal with the next completion.  True: there is none yet, and
  // the signal will come: it is safe to sleep.  False: poll first.
  [[nodiscard]] bool enable_interrupts();

  // Asks for no signals, which is how a queue starts.
  void disable_interrupts();

  // OK; kDataLoss: what the device did to break the queue;
  // kFailedPrecondition: after take_back().
  const absl::Status& status() const { return status_; }

  // Ends the queue: the cookies of all requests in flight, each once.  For a
  // device that stopped or died.  Nothing can be submitted any more.
  std::vector<uint64_t> take_back();

  uint32_t size() const { return num_; }
  // Requests submitted and not completed.
  uint32_t in_flight() const { return in_flight_; }
  // Descriptors that requests may take.  size() when nothing is in flight.
  uint32_t free_count() const { return free_count_; }
  // Most descriptors a request can have.
  uint32_t max_chain() const { return num_; }

 private:
  // What is known of a request in flight, by its first descriptor.
  struct Slot {
    uint64_t cookie = 0;
    uint32_t writable = 0;     // Bytes the device may write.
    uint16_t last = 0;         // Last descriptor of the chain.
    uint16_t descriptors = 0;  // Of the ring; 0: nothing in flight here.
  };
  explicit SplitVirtqueue(const Options& options);
  static absl::Status check(const Options& options);
  void lay_out(uint16_t first_index);
  absl::Status adopt(const SplitRingState& state);
  absl::Status adopt_requests(const SplitRingState& state);

  // Errors, out of the way of the fast path.
  absl::Status begin_error(uint32_t max_descriptors) const;
  absl::Status poll_error(uint16_t fresh);
  absl::Status submit_error() const;
  void break_by_entry(uint32_t id, uint32_t written);
  void break_with(absl::Status why);

  // A word that the other side reads or writes meanwhile.  Not
  // std::atomic_ref: where the standard library checks its alignment, that
  // costs a call.
  class Word {
   public:
    explicit Word(std::byte* at) : at_(reinterpret_cast<uint16_t*>(at)) {}
    uint16_t load() const { return __atomic_load_n(at_, __ATOMIC_RELAXED); }
    uint16_t load_acquire() const {
      return __atomic_load_n(at_, __ATOMIC_ACQUIRE);
    }
    void store(uint16_t value) const {
      __atomic_store_n(at_, value, __ATOMIC_RELAXED);
    }
    void store_release(uint16_t value) const {
      __atomic_store_n(at_, value, __ATOMIC_RELEASE);
    }

   private:
    uint16_t* at_;
  };
  static uint32_t load_32(std::byte* at) {
    return __atomic_load_n(reinterpret_cast<uint32_t*>(at), __ATOMIC_RELAXED);
  }
  // Requests in flight that the device has seen.
  uint32_t published() const {
    return in_flight_ - static_cast<uint16_t>(avail_index_ - shown_);
  }
  Word avail_flags() const { return Word(avail_); }
  Word avail_idx() const { return Word(avail_ + 2); }
  Word avail_entry(uint16_t index) const {
    return Word(avail_ + 4 + size_t{2} * (index & mask_));
  }
  Word used_event() const { return Word(avail_ + 4 + size_t{2} * num_); }
  Word used_flags() const { return Word(used_); }
  Word used_idx() const { return Word(used_ + 2); }
  std::byte* used_entry(uint16_t index) const {
    return used_ + 4 + size_t{8} * (index & mask_);
  }
  Word avail_event() const { return Word(used_ + 4 + size_t{8} * num_); }
  void move_event_away();

  const uint32_t num_;
  const uint32_t mask_;
  VringDesc* const desc_;
  std::byte* const avail_;
  std::byte* used_;  // The device's; once broken: ended_.
  std::byte* const indirect_;
  const uint64_t indirect_gpa_;
  const uint32_t indirect_entries_;
  const bool event_index_;

  bool interrupts_ = false;
  uint16_t avail_index_ = 0;  // Behind what was submitted.
  uint16_t shown_ = 0;        // Behind what was published.
  uint16_t next_used_ = 0;
  // next_used_ when the used event was last moved away.
  uint16_t event_base_ = 0;
  uint16_t free_head_ = 0;
  uint32_t free_count_;
  uint32_t in_flight_ = 0;
  bool open_ = false;  // A request is being built.
  std::vector<Slot> slot_storage_;
  std::vector<uint16_t> next_storage_;
  Slot* const slots_;     // Unchecked: every index is below num_.
  uint16_t* const next_;  // Free list; and the chains in flight.
  absl::Status status_;
  // A used ring's flags and index, as has_completions() is to see them of a
  // queue that ended.
  alignas(4) uint16_t ended_[2] = {};
};

// A request that is being built, or why there is none.  Destroying it without
// submit() gives its descriptors back.  It must not outlive its queue.
//
// It stays where begin() made it, and is no StatusOr: one that is moved goes
// through memory, and reading it back there waits for every store before it to
// reach the cache, the device's lines included.
class [[nodiscard]] SplitVirtqueue::Request {
 public:
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() {
    if (queue_ != nullptr) queue_->open_ = false;
  }

  // Whether begin() opened it.
  bool ok() const { return status_.ok(); }
  // What begin() says.
  const absl::Status& status() const { return status_; }

  // Adds a buffer that the device reads, or one that it writes.  Readable ones
  // come first.  On error the request stays as it was.
  // Errors: kInvalidArgument     length 0; 2^32 bytes or more in all; a
  //                              readable buffer behind a writable one; more
  //                              buffers than were asked for.
  //         kFailedPrecondition  already submitted or cancelled.
  //         status()             never opened.
  [[gnu::always_inline]] absl::Status add_readable(uint64_t gpa,
                                                   uint32_t length) {
    return add(gpa, length, false);
  }
  [[gnu::always_inline]] absl::Status add_writable(uint64_t gpa,
                                                   uint32_t length) {
    return add(gpa, length, true);
  }

  // Completes the request: the next publish() shows it to the device.  The
  // request is over in any case.
  // Errors: kInvalidArgument     nothing was added: the request is dropped.
  //         kFailedPrecondition  already submitted or cancelled.
  //         status()             never opened.
  absl::Status submit();

  // Drops the request: the queue is as before begin().
  // Errors: kFailedPrecondition  nothing was added (it is dropped all the
  //                              same), or already submitted or cancelled.
  absl::Status cancel();

 private:
  friend class SplitVirtqueue;
  explicit Request(absl::Status why) : status_(std::move(why)) {}
  Request(SplitVirtqueue* queue, VringDesc* table, uint32_t max,
          uint64_t cookie)
      : queue_(queue),
        table_(table),
        cookie_(cookie),
        shape_{.max = max, .left = max},
        next_(queue->free_head_) {}

  // What it has so far.
  struct Shape {
    uint32_t bytes_left = std::numeric_limits<uint32_t>::max();
    uint32_t writable = 0;  // Bytes.
    uint32_t max = 0;       // Buffers.
    uint32_t left = 0;      // Of them.
  };

  absl::Status add(uint64_t gpa, uint32_t length, bool writable);
  // By value: a request whose address is taken does not live in registers.
  static absl::Status add_error(Shape shape, uint32_t length, bool writable);
  static absl::Status over(absl::Status why);

  SplitVirtqueue* queue_ = nullptr;
  VringDesc* table_ = nullptr;  // Indirect; null: a chain in the ring.
  uint64_t cookie_ = 0;
  Shape shape_;
  uint16_t next_ = 0;  // The free descriptor that comes next.
  uint16_t last_ = 0;  // The one added last.
  absl::Status status_;
};

// ---------------------------------------------------------------------------
// The fast path.  Inlined by force: a request then lives in registers.
// ---------------------------------------------------------------------------

[[gnu::always_inline]] inline SplitVirtqueue::Request SplitVirtqueue::begin(
    uint32_t max_descriptors, uint64_t cookie) {
  const bool indirect =
      max_descriptors > 1 && max_descriptors <= indirect_entries_;
  const uint32_t needed = indirect ? 1 : max_descriptors;
  // A queue that is broken or was taken back has no free descriptors.
  if (needed > free_count_ || max_descriptors == 0 || open_) [[unlikely]] {
    return Request(begin_error(max_descriptors));
  }
  open_ = true;
  VringDesc* const table =
      indirect ? reinterpret_cast<VringDesc*>(
                     indirect_ + size_t{16} * indirect_entries_ * free_head_)
               : nullptr;
  return Request(this, table, max_descriptors, cookie);
}

[[gnu::always_inline]] inline absl::Status SplitVirtqueue::Request::add(
    uint64_t gpa, uint32_t length, bool writable) {
  if (queue_ == nullptr) [[unlikely]]
    return over(status_);
  // The first test fails for a length of 0, too.
  if (length - 1 >= shape_.bytes_left || shape_.left == 0 ||
      (!writable && shape_.writable != 0)) [[unlikely]] {
    return add_error(shape_, length, writable);
  }
  // Every descriptor says NEXT until submit() knows which one is the last.
  const auto flags =
      static_cast<uint16_t>(kVringDescNext | (writable ? kVringDescWrite : 0));
  if (table_ != nullptr) {
    const uint32_t index = shape_.max - shape_.left;
    table_[index] =
        VringDesc{gpa, length, flags, static_cast<uint16_t>(index + 1)};
  } else {
    last_ = next_;
    next_ = queue_->next_[last_];
    queue_->desc_[last_] = VringDesc{gpa, length, flags, next_};
  }
  --shape_.left;
  shape_.bytes_left -= length;
  if (writable) shape_.writable += length;
  return absl::OkStatus();
}

[[gnu::always_inline]] inline absl::Status SplitVirtqueue::Request::submit() {
  if (queue_ == nullptr) [[unlikely]]
    return over(status_);
  SplitVirtqueue& queue = *std::exchange(queue_, nullptr);
  const uint32_t count = shape_.max - shape_.left;
  const bool open = std::exchange(queue.open_, false);
  if (count == 0 || !open) [[unlikely]]
    return queue.submit_error();
  const uint16_t head = queue.free_head_;
  const auto last_flags =
      static_cast<uint16_t>(shape_.writable != 0 ? kVringDescWrite : 0);
  Slot& slot = queue.slots_[head];
  uint16_t taken = 1;
  if (table_ != nullptr) {
    VringDesc& last = table_[count - 1];
    last.flags = last_flags;
    last.next = 0;
    queue.desc_[head] = VringDesc{
        queue.indirect_gpa_ + uint64_t{16} * queue.indirect_entries_ * head,
        count * 16, kVringDescIndirect, 0};
    slot.last = head;
    queue.free_head_ = queue.next_[head];
  } else {
    taken = static_cast<uint16_t>(count);
    queue.desc_[last_].flags = last_flags;
    slot.last = last_;
    queue.free_head_ = next_;
  }
  slot.cookie = cookie_;
  slot.writable = shape_.writable;
  slot.descriptors = taken;
  queue.free_count_ -= taken;
  ++queue.in_flight_;
  queue.avail_entry(queue.avail_index_).store(head);
  ++queue.avail_index_;
  return absl::OkStatus();
}

inline bool SplitVirtqueue::publish() {
  const auto fresh = static_cast<uint16_t>(avail_index_ - shown_);
  if (fresh == 0) return false;
  shown_ = avail_index_;
  // ORDER: descriptors and ring entries before the index that shows them.
  avail_idx().store_release(avail_index_);
  // ORDER: the index is visible before the device's wish is read; a device
  // writes its wish and then looks at the index.  One of the two sees.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_index_) {
    return (used_flags().load() & kVringUsedNoNotify) == 0;
  }
  return static_cast<uint16_t>(avail_index_ - avail_event().load() - 1) < fresh;
}

inline absl::StatusOr<size_t> SplitVirtqueue::poll(
    std::span<RingCompletion> out) {
  // ORDER: the index before the entries it shows.
  const auto fresh =
      static_cast<uint16_t>(used_idx().load_acquire() - next_used_);
  if (fresh > published() || open_ || !status_.ok()) [[unlikely]] {
    return poll_error(fresh);
  }
  const size_t wanted = fresh < out.size() ? fresh : out.size();
  uint16_t free_head = free_head_;
  uint32_t freed = 0;
  size_t taken = 0;
  for (; taken < wanted; ++taken) {
    std::byte* const entry =
        used_entry(static_cast<uint16_t>(next_used_ + taken));
    const uint32_t id = load_32(entry);
    const uint32_t written = load_32(entry + 4);
    if (id >= num_ || slots_[id].descriptors == 0 ||
        written > slots_[id].writable) [[unlikely]] {
      break_by_entry(id, written);
      break;
    }
    Slot& slot = slots_[id];
    out[taken] = RingCompletion{slot.cookie, written};
    next_[slot.last] = free_head;
    free_head = static_cast<uint16_t>(id);
    freed += slot.descriptors;
    slot.descriptors = 0;
  }
  next_used_ = static_cast<uint16_t>(next_used_ + taken);
  in_flight_ -= static_cast<uint32_t>(taken);
  if (!status_.ok()) [[unlikely]] {
    if (taken == 0) return status_;
    return taken;
  }
  free_head_ = free_head;
  free_count_ += freed;
  if (event_index_ && !interrupts_ &&
      static_cast<uint16_t>(next_used_ - event_base_) >= 0x4000) {
    move_event_away();
  }
  return taken;
}

}  // namespace vhost

#endif  // VHOSTDEV_SPLIT_VIRTQUEUE_H_
