// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_VRING_H_
#define TESTS_FAKES_MODEL_VRING_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/fakes/model_poller.h"
#include "tests/fakes/model_ring.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

using ModelTime = std::chrono::steady_clock::time_point;

// Stores that a test counts, and after one of which it may kill the model.
class ModelStores final : public StoreObserver {
 public:
  explicit ModelStores(const ModelOptions* options) : options_(options) {}
  bool may_store() override { return !dead_; }
  void stored() override {
    dead_ = dead_ || (options_->on_store && !options_->on_store());
  }
  bool dead() const { return dead_; }

 private:
  const ModelOptions* options_;
  bool dead_ = false;
};

// What all parts of a ModelBackend share.
struct ModelEnvironment {
  ModelDevice* device;
  ModelOptions options;
  ModelPoller poller;
  ModelCounters counters;
  ModelStateReport state_report;
  std::string trouble;
  ModelStores stores{&options};

  void tell(std::string what);
};

// What a ring needs of the connection it belongs to.
class ModelVringHost {
 public:
  virtual ~ModelVringHost() = default;
  // Whether the driver is ready, where the front-end says so.
  virtual bool driver_ok() const = 0;
  // Notifies in-band, if that was negotiated.
  virtual void call_in_band(uint32_t vring) = 0;
  // The ring broke, and nobody but the connection can say so.
  virtual void vring_broke(uint32_t vring, bool told) = 0;
};

// One ring with its notifiers, its states and its requests in flight.
class ModelVring {
 public:
  ModelVring(uint32_t index, ModelEnvironment* environment,
             ModelVringHost* host, ModelRingContext* context)
      : index_(index), environment_(environment), host_(host), ring_(context) {}

  ModelRing& ring() { return ring_; }
  ModelRingState state() const;
  bool started() const { return started_; }
  bool polled() const { return started_ && !broken_ && polled_; }

  // A descriptor, or none: the other side polls, or we do.
  // Errors: kInvalidArgument  a descriptor that cannot be waited for.
  absl::Status set_kick(std::optional<UniqueFd> fd);
  void set_call(std::optional<UniqueFd> fd);
  void set_err(std::optional<UniqueFd> fd);
  void set_enabled(bool enabled);

  // The kick descriptor is readable.
  void on_kick();
  // A kick came, by whatever way.
  void start();
  // Takes nothing new while held.
  void hold(bool held) { held_ = held; }
  // Forgets the kick descriptor and whatever is in flight.
  void stop();
  // stop(), and forgets size, base, addresses and inflight region too.
  void reset();
  // Where to note what is in flight, from the next start on; empty: nowhere.
  // For rings of up to `queue_size`.  Outlives the ring, or its next region.
  void set_inflight(std::span<std::byte> region, uint16_t queue_size) {
    region_ = region;
    region_size_ = queue_size;
  }
  // Whether a stop may leave requests in flight, noted.
  bool notes_inflight() const { return inflight_.has_value(); }
  // Memory changed: looks for the ring again.
  void remap();

  // Takes, finishes and hands back what is due.  True if there is more to do
  // at once.
  bool serve(ModelTime now);
  size_t in_flight() const { return in_flight_.size(); }
  // When the oldest request in flight is due.
  std::optional<ModelTime> due() const;

 private:
  struct InFlight {
    ModelTime due;
    ModelRing::Taken taken;
  };

  absl::Status begin();
  absl::Status recover();
  absl::StatusOr<bool> work(ModelTime now);
  absl::StatusOr<bool> take(ModelTime now);
  absl::StatusOr<bool> discard();
  absl::StatusOr<bool> receive();
  absl::StatusOr<bool> receive_one();
  absl::StatusOr<std::optional<ModelRing::Taken>> take_one();
  absl::Status note_taken(const ModelRing::Taken& taken);
  void put_back(ModelRing::Taken taken);
  absl::Status give_back(const ModelRing::Taken& taken, uint32_t written,
                         ModelFault fault = ModelFault::kNone);
  absl::StatusOr<bool> publish();
  absl::Status check_alive() const;
  absl::Status finish(ModelTime now);
  void notify();
  void fail(const absl::Status& why);
  void unwatch_kick();
  void note_active();
  ModelFault next_fault();

  uint32_t index_;
  ModelEnvironment* environment_;
  ModelVringHost* host_;
  ModelRing ring_;
  UniqueFd kick_;
  bool polled_ = false;
  std::optional<UniqueFd> call_;  // Empty: never said.
  std::optional<UniqueFd> err_;
  bool started_ = false;
  bool enabled_ = false;
  bool held_ = false;
  bool broken_ = false;
  bool active_ = false;  // As the device knows it.
  std::deque<InFlight> in_flight_;
  std::span<std::byte> region_;
  uint16_t region_size_ = 0;                  // Descriptors.
  std::optional<SplitInflight> inflight_;     // Of the region, while started.
  std::deque<ModelRing::Taken> resubmitted_;  // Taken before anything else.
  uint64_t handed_back_ = 0;                  // Since it was started.
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_VRING_H_
