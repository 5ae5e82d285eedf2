// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_STATE_RECORDS_H_
#define MIGRATION_STATE_RECORDS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/channel.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"

namespace vhost {

// The state of one device's back-end as records of a migration's stream: each
// payload is a chunk as QEMU has it, its be32 length and the bytes.  Several
// may write beside each other.
class RecordSink final : public StateSink {
 public:
  // Bytes that may wait in the channel before no more are taken.
  static constexpr size_t kRoom = 2 << 20;

  // `channel` outlives this or close().  `device`: its number.
  RecordSink(EventLoop& loop, Channel& channel, uint32_t device)
      : loop_(loop), channel_(&channel), device_(device) {}

  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;
  absl::StatusOr<bool> end() override;

  // The channel has sent something: whoever waits for room is told.
  void look_again();
  // The channel is gone: take() and end() fail from now on.
  void close() { channel_ = nullptr; }

  uint64_t bytes() const { return bytes_; }

 private:
  absl::Status no_channel() const;
  bool has_room() const;

  EventLoop& loop_;
  Channel* channel_;
  const uint32_t device_;
  uint64_t bytes_ = 0;
  absl::AnyInvocable<void()> ready_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

// The other end: is given the payloads of those records, and keeps what the
// back-end does not take yet.
class RecordSource final : public StateSource {
 public:
  // Bytes kept above which the channel should not be read.
  static constexpr size_t kEnough = 2 << 20;

  // `taken` is called after bytes left.
  RecordSource(EventLoop& loop, absl::AnyInvocable<void()> taken)
      : loop_(loop), taken_(std::move(taken)) {}

  // The payload of a record.  Errors: kDataLoss  not a chunk, or behind the
  // end.
  absl::Status add(std::span<const std::byte> payload);
  // The end record came.  Errors: kDataLoss  not one, or the second one.
  absl::Status add_end(std::span<const std::byte> payload);

  bool has_enough() const { return kept_ >= kEnough; }
  bool ended() const { return ended_; }
  uint64_t bytes() const { return bytes_; }

  absl::StatusOr<Given> give(int pipe, uint64_t most) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;

 private:
  void tell();

  EventLoop& loop_;
  absl::AnyInvocable<void()> taken_;
  std::deque<std::vector<std::byte>> chunks_;
  size_t offset_ = 0;  // Of the first one: given already.
  size_t kept_ = 0;
  uint64_t bytes_ = 0;
  bool ended_ = false;
  absl::AnyInvocable<void()> ready_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vhost

#endif  // MIGRATION_STATE_RECORDS_H_
