// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_STREAM_SCENARIO_H_
#define TESTS_FUZZ_STREAM_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

// A migration stream of any bytes, as a destination or a source reads it.
//
//   piece:u8 mode:u8 stream...
//
// mode: bit 0, the answers of a destination; bit 1, backend_state is let pass;
// bit 2, all checksums, sequence numbers and totals are put right first, so
// that what is behind them is reached.

namespace vhost {

// What became of it; aborts where the reader contradicts itself.
struct StreamOutcome {
  absl::Status status;  // Of the reader.
  uint64_t records = 0;
  uint64_t decoded = 0;  // Records whose payload made sense.
};
StreamOutcome run_stream_scenario(std::span<const uint8_t> input);

// Puts all checksums right, as far as the bytes are a stream.
void repair_stream(std::span<std::byte> stream);

}  // namespace vhost

#endif  // TESTS_FUZZ_STREAM_SCENARIO_H_
