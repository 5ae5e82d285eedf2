// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_RING_H_
#define TESTS_FAKES_MODEL_RING_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/fakes/model_memory.h"
#include "vhostdev/features.h"
#include "vhostdev/inflight.h"
#include "vhostdev/testing/model_device.h"
#include "vhostdev/testing/model_fault.h"

namespace vhost::testing {

// What the rings of one connection share.
struct ModelRingContext {
  ModelMemory memory;
  ModelLog log;
  FeatureSet features;              // As accepted by the front-end.
  StoreObserver* stores = nullptr;  // Of stores to used rings; or null.
};

struct ModelRingAddresses {
  uint64_t desc = 0;  // User addresses.
  uint64_t avail = 0;
  uint64_t used = 0;
  uint64_t log = 0;  // Guest address of `used`, for the dirty log.
  bool log_used = false;

  friend bool operator==(const ModelRingAddresses&,
                         const ModelRingAddresses&) = default;
};

// The device's half of a split ring.  Believes nothing that the driver writes:
// an error of any method but the setters means that the driver broke the rules
// and that the ring must not be used before it is set up again.
// Source: VIRTIO 1.3, "Split Virtqueues".
class ModelRing {
 public:
  explicit ModelRing(ModelRingContext* context) : context_(context) {}

  // A request taken from the ring.
  struct Taken {
    uint16_t head = 0;
    bool resubmitted = false;  // Another back-end had taken it.
    ModelRequest request;
  };

  absl::Status set_num(uint32_t num);
  absl::Status set_base(uint32_t base);
  absl::Status set_addresses(const ModelRingAddresses& addresses);
  uint32_t num() const { return num_; }
  uint16_t next_avail() const { return next_avail_; }
  const std::optional<ModelRingAddresses>& addresses() const {
    return addresses_;
  }
  void forget() { *this = ModelRing(context_); }

  // Whether the ring would lie wholly in `memory`.
  absl::Status fits(const ModelMemory& memory) const;
  // Finds the ring in the memory of now; to be called again when that changes.
  absl::Status map();
  // Begins to work at base and used index.
  absl::Status begin();

  // Goes on where a back-end left off that had `in_flight` requests, instead of
  // at the base; each of them is then to be taken with retake().
  void go_on(size_t in_flight);
  absl::StatusOr<Taken> retake(uint16_t head);
  // The used index as the driver sees it.
  uint16_t published() const { return published_; }

  // The next request, if there is one.
  absl::StatusOr<std::optional<Taken>> take();
  // As if the last request taken had not been.
  void put_back(const Taken& taken);
  // Hands a request back, of which the first `written` writable bytes were
  // written; with a lie about it, if asked.  The driver sees it after
  // publish().
  absl::Status give_back(const Taken& taken, uint32_t written,
                         ModelFault fault = ModelFault::kNone);
  // Shows what was handed back; says whether the driver wants to be notified.
  absl::StatusOr<bool> publish();

  // Tells the driver that it need not kick.
  absl::Status suppress_kicks();
  // Tells it to kick from now on; true if something came meanwhile.
  absl::StatusOr<bool> want_kicks();

 private:
  struct Desc;
  struct UsedElem;

  bool has(unsigned feature) const { return context_->features.has(feature); }
  uint16_t load_avail(uint64_t index) const;
  UsedElem told(const Taken& taken, uint32_t written, ModelFault fault) const;
  absl::StatusOr<Taken> walk_from(uint16_t head);
  absl::Status store_used(uint64_t offset, uint16_t value);
  absl::Status walk(uint16_t head, ModelRequest& request) const;
  absl::Status walk_indirect(const Desc& where, ModelRequest& request) const;
  absl::Status append(const Desc& desc, ModelRequest& request) const;

  ModelRingContext* context_;
  uint32_t num_ = 0;
  std::optional<ModelRingAddresses> addresses_;
  std::byte* desc_ = nullptr;
  std::byte* avail_ = nullptr;
  std::byte* used_ = nullptr;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;   // Where give_back() writes.
  uint16_t published_ = 0;   // What the driver sees.
  std::vector<bool> taken_;  // By head.
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_RING_H_
