// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/ring_scenario.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "vhostdev/split_virtqueue.h"

namespace vhost {
namespace {

constexpr uint32_t kIndirectEntries = 4;
// Steps of one input: longer ones find nothing new.
constexpr size_t kMostSteps = 4096;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "split virtqueue: %s\n", what);
  std::abort();
}

// The input, front to back; zeros behind its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  T take() {
    std::array<uint8_t, sizeof(T)> bytes{};
    const size_t count = std::min(size_, sizeof(T));
    if (count != 0) std::memcpy(bytes.data(), data_, count);
    data_ += count;
    size_ -= count;
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

class Scenario {
 public:
  Scenario(const uint8_t* data, size_t size) : input_(data, size) {
    const auto setup = input_.take<uint8_t>();
    SplitVirtqueue::Options options;
    options.num = 1u << std::min(setup & 15, 8);
    options.event_index = (setup & 16) != 0;
    options.first_index = input_.take<uint16_t>();
    num_ = options.num;
    device_next_ = options.first_index;
    indirect_ = (setup & 32) != 0 && num_ >= kIndirectEntries;
    lay_out(options);
    queue_ = SplitVirtqueue::create(options).value();
  }

  RingScenario run() {
    for (size_t step = 0; step < kMostSteps && !input_.empty(); ++step) {
      one_step();
      check_counts();
    }
    finish();
    return result_;
  }

 private:
  struct Known {
    uint32_t writable = 0;
    uint32_t descriptors = 0;
  };

  // Every part in a block of its own, so that the sanitizer sees who leaves it.
  void lay_out(SplitVirtqueue::Options& options) {
    const SplitRingLayout layout = split_ring_layout(num_);
    parts_[0].resize(layout.desc_size / 4);
    parts_[1].resize((layout.avail_size + 3) / 4);
    parts_[2].resize((layout.used_size + 3) / 4);
    parts_[3].resize(indirect_ ? size_t{4} * kIndirectEntries * num_ : 1);
    options.desc = bytes(0);
    options.avail = bytes(1);
    options.used = bytes(2);
    if (!indirect_) return;
    options.indirect = bytes(3);
    options.indirect_gpa = 0x1000'0000;
    options.indirect_entries = kIndirectEntries;
  }

  std::byte* bytes(size_t part) {
    return reinterpret_cast<std::byte*>(parts_[part].data());
  }
  template <typename T>
  void write(size_t part, size_t offset, T value) {
    std::memcpy(bytes(part) + offset, &value, sizeof(value));
  }

  void one_step() {
    const auto step = static_cast<uint8_t>(input_.take<uint8_t>() % 12);
    switch (step) {
      case 0:
        return build(true);
      case 1:
        return build(false);
      case 2:
        return poll(input_.take<uint8_t>() % batch_.size());
      case 3:
        if (queue_->publish()) ++result_.kicks;
        return;
      case 4:
        if (queue_->enable_interrupts()) result_.slept = true;
        return;
      case 5:
        return queue_->disable_interrupts();
      default:
        return device_step(step);
    }
  }

  // The driver: a request of any shape, submitted or thrown away.
  void build(bool submit) {
    const auto shape = input_.take<uint8_t>();
    const uint32_t readable = shape & 3;
    const uint32_t writable = shape >> 2 & 3;
    const uint32_t total = readable + writable;
    auto request = queue_->begin(total, next_cookie_);
    if (!request.ok()) return;
    Known known;
    known.descriptors =
        indirect_ && total > 1 && total <= kIndirectEntries ? 1 : total;
    bool complete = true;
    for (uint32_t i = 0; i < total; ++i) {
      const uint32_t length = input_.take<uint16_t>();
      const absl::Status added = i < readable ? request.add_readable(i, length)
                                              : request.add_writable(i, length);
      require(added.ok() == (length != 0), "a buffer is taken iff not empty");
      complete = complete && added.ok();
      if (i >= readable) known.writable += length;
    }
    if (!submit || !complete) return;
    require(request.submit().ok(), "a complete request is submitted");
    in_flight_.emplace(next_cookie_++, known);
    ++result_.submitted;
  }

  void poll(size_t batch) {
    const auto count = queue_->poll(std::span(batch_).first(batch));
    if (!count.ok()) return note_broken();
    require(count.value() <= batch, "no more than there is room for");
    for (size_t i = 0; i < count.value(); ++i) {
      const auto known = in_flight_.extract(batch_[i].cookie);
      require(!known.empty(), "a completed request was in flight");
      require(batch_[i].written <= known.mapped().writable,
              "no more was written than was writable");
      ++result_.completed;
    }
  }

  void note_broken() {
    require(absl::IsDataLoss(queue_->status()), "broken is data loss");
    result_.broken_by = std::string(queue_->status().message());
    require(!queue_->begin(1, 0).ok(), "a broken queue takes no request");
  }

  // The device: from honest to wild.
  void device_step(uint8_t step) {
    const uint32_t mask = num_ - 1;
    switch (step) {
      case 6: {
        uint16_t head = 0;
        std::memcpy(&head, bytes(1) + 4 + size_t{2} * (device_next_ & mask),
                    sizeof(head));
        const size_t entry = 4 + size_t{8} * (device_next_ & mask);
        write<uint32_t>(2, entry, head);
        write<uint32_t>(2, entry + 4, input_.take<uint8_t>());
        return write<uint16_t>(2, 2, ++device_next_);
      }
      case 7: {
        const size_t entry = 4 + size_t{8} * (input_.take<uint16_t>() & mask);
        write<uint32_t>(2, entry, input_.take<uint32_t>());
        return write<uint32_t>(2, entry + 4, input_.take<uint32_t>());
      }
      case 8:
        device_next_ =
            static_cast<uint16_t>(device_next_ + input_.take<uint16_t>());
        return write<uint16_t>(2, 2, device_next_);
      case 9:
        return write<uint16_t>(2, 4 + size_t{8} * num_,
                               input_.take<uint16_t>());
      case 10: {
        const auto at = input_.take<uint16_t>();
        std::vector<uint32_t>& part = parts_[at & 3];
        const size_t offset = (at >> 2) % (part.size() * 4);
        return write<uint8_t>(at & 3, offset, input_.take<uint8_t>());
      }
      default:
        return write<uint16_t>(2, 0, input_.take<uint16_t>());
    }
  }

  void check_counts() {
    require(queue_->in_flight() == in_flight_.size(), "in flight is counted");
    if (!queue_->status().ok()) return;
    uint32_t descriptors = 0;
    for (const auto& [cookie, known] : in_flight_) {
      descriptors += known.descriptors;
    }
    require(queue_->free_count() + descriptors == num_,
            "free and in flight add up");
  }

  // Whatever happened, every request comes back once.
  void finish() {
    for (const uint64_t cookie : queue_->take_back()) {
      require(in_flight_.erase(cookie) == 1, "it was in flight");
      ++result_.taken_back;
    }
    require(in_flight_.empty(), "nothing is kept");
    require(result_.completed + result_.taken_back == result_.submitted,
            "each came back once");
  }

  Input input_;
  RingScenario result_;
  uint32_t num_ = 0;
  bool indirect_ = false;
  uint16_t device_next_ = 0;  // The used index, as the device counts.
  uint64_t next_cookie_ = 1;
  // Descriptors, available ring, used ring, indirect tables.
  std::array<std::vector<uint32_t>, 4> parts_;
  std::array<RingCompletion, 16> batch_;
  std::unique_ptr<SplitVirtqueue> queue_;
  std::map<uint64_t, Known> in_flight_;
};

}  // namespace

RingScenario run_ring_scenario(const uint8_t* data, size_t size) {
  return Scenario(data, size).run();
}

}  // namespace vhost
