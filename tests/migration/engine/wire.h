// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_ENGINE_WIRE_H_
#define TESTS_MIGRATION_ENGINE_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// What lies between a source and a destination: passes records on, whole, and
// can do something else with one of them.
class Wire {
 public:
  enum class Do : uint8_t {
    kNothing,
    kCall,     // `call`, then pass it on.
    kHangUp,   // Instead of passing it on.
    kCut,      // Pass half of it on, then hang up.
    kSilence,  // Pass nothing on any more, either way.
    kFlip,     // Pass it on with its last byte another.
  };

  Wire();

  // The ends, each to be taken once.
  UniqueFd source_end() { return std::move(near_[0]); }
  UniqueFd destination_end() { return std::move(near_[1]); }

  // At the first record of `type`.
  void plan(RecordType type, Do what,
            absl::AnyInvocable<void()> call = nullptr);
  bool planned_happened() const { return happened_; }

  // Moves what there is; whether anything moved.
  bool turn();
  void hang_up();

  // Types of the records that were passed on, of both directions.
  std::vector<RecordType> seen;
  uint64_t bytes = 0;  // That came from the source.

 private:
  struct Way {
    std::vector<std::byte> in;
    std::vector<std::byte> out;
    bool has_header = false;
    bool hashed = true;
    bool ended = false;
  };

  bool receive(size_t from);
  void pass(size_t from);
  bool pass_record(Way& way);
  bool send(size_t from);

  std::array<UniqueFd, 2> near_;  // The parties'.
  std::array<UniqueFd, 2> far_;   // Ours.
  std::array<Way, 2> ways_;       // From 0, the source, and from 1.
  RecordType type_{};
  Do what_ = Do::kNothing;
  absl::AnyInvocable<void()> call_;
  bool happened_ = false;
  bool silent_ = false;
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_ENGINE_WIRE_H_
