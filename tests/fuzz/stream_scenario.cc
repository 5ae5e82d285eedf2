// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/stream_scenario.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "migration/bytes.h"
#include "migration/stream_format.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/migration_stream.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlock = 256 * kPage;

void check(bool condition) {
  if (!condition) std::abort();
}

// What the devices of a stream must look like.
DeviceManifest some_device() {
  DeviceManifest out;
  out.name = out.device_class = out.backend = "x";
  out.queue_sizes = {256, 128};
  out.offered = FeatureSet::from_words(~uint64_t{0}, ~uint64_t{0});
  out.config_length = 60;
  return out;
}

// Whether the payload makes sense to the decoder of its type.
bool decodes(const StreamRecord& record) {
  const std::span<const std::byte> payload = record.payload;
  switch (record.type) {
    case RecordType::kManifest:
      return decode_manifest(payload).ok();
    case RecordType::kManifestAnswer:
      return decode_manifest_answer(payload).ok();
    case RecordType::kRamBlocks:
      return decode_ram_blocks(payload).ok();
    case RecordType::kRamPages:
      return decode_ram_pages(payload, kPage, kBlock).ok();
    case RecordType::kRamZeroPages:
      return decode_ram_zero_pages(payload, kPage, kBlock).ok();
    case RecordType::kRoundEnd:
      return decode_round_end(payload).ok();
    case RecordType::kDeviceCore:
      return decode_device_core(payload, some_device()).ok();
    case RecordType::kDeviceConfig:
      return decode_device_config(payload, some_device()).ok();
    case RecordType::kInflight:
      return decode_inflight(payload).ok();
    case RecordType::kRamHash:
      return decode_ram_hash(payload).ok();
    case RecordType::kAbort:
      check(!decode_abort(payload).ok());
      return true;
    case RecordType::kBackendState:
    case RecordType::kBackendStateEnd:
    case RecordType::kGuest:
    case RecordType::kSwitchover:
    case RecordType::kReady:
    case RecordType::kStateEnd:
    case RecordType::kPrepared:
    case RecordType::kCommit:
    case RecordType::kResumed:
    case RecordType::kEnd:
      return true;
  }
  std::abort();  // A reader gives no others.
}

struct Options {
  size_t piece = 1;
  StreamDirection direction = StreamDirection::kToDestination;
  bool pass = false;
};

StreamOutcome read_all(std::span<const std::byte> channel,
                       const Options& options) {
  StreamOutcome out;
  StreamReader reader(options.direction);
  if (options.pass) reader.pass_through(RecordType::kBackendState, 4);
  const size_t size = channel.size();
  size_t stuck = 0;
  while (true) {
    const size_t fed =
        reader.feed(channel.first(std::min(options.piece, channel.size())));
    channel = channel.subspan(fed);
    const auto record = reader.next();
    if (!record.ok()) {
      out.status = record.status();
      break;
    }
    if (record->has_value()) {
      const StreamRecord& one = **record;
      check(one.sequence + 1 == reader.records());
      check(one.external == reader.external_left());
      ++out.records;
      if (decodes(one)) ++out.decoded;
      const size_t moved = std::min(one.external, channel.size());
      reader.external_moved(moved);
      channel = channel.subspan(moved);
      continue;
    }
    stuck = fed == 0 ? stuck + 1 : 0;
    check(stuck < 3 || channel.empty());
    if (channel.empty()) break;
  }
  check(out.records + reader.skipped() <= reader.records());
  const absl::Status end = reader.finish();
  check(!out.status.ok() || end.ok() == reader.ended());
  check(!end.ok() || reader.bytes() == size);
  if (out.status.ok()) out.status = end;
  return out;
}

}  // namespace

void repair_stream(std::span<std::byte> stream) {
  if (stream.size() < kStreamHeaderSize) return;
  const auto header = stream.first<kStreamHeaderSize>();
  const auto checksum = std::span<const std::byte, kStreamHeaderSize>(header);
  store_be(header.last<8>(), header_checksum(checksum));
  const auto integrity = Integrity{std::to_integer<uint8_t>(header[9])};
  const size_t trailer = integrity == Integrity::kXxh3 ? kRecordTrailerSize : 0;
  StreamTotals totals;
  totals.begin(checksum);
  stream = stream.subspan(kStreamHeaderSize);
  while (stream.size() >= kRecordHeadSize) {
    RecordHead head;
    Taker taker(stream);
    head.type = RecordType{taker.take<uint16_t>()};
    head.flags = taker.take<uint16_t>();
    head.id = taker.take<uint32_t>();
    head.sequence = totals.records();
    taker.take<uint64_t>();
    head.size = taker.take<uint32_t>();
    const RecordHeadBytes bytes = encode_record_head(head);
    std::memcpy(stream.data(), bytes.data(), bytes.size());
    const size_t whole = kRecordHeadSize + head.size + trailer;
    if (whole > stream.size()) return;
    const auto payload = stream.subspan(kRecordHeadSize, head.size);
    const RecordRule* rule = find_record_rule(head.type);
    if (rule != nullptr && rule->totals && head.size == kTotalsSize) {
      const auto said = totals.encode();
      std::memcpy(payload.data(), said.data(), said.size());
    }
    const uint64_t hash = hash_record(bytes, payload, integrity);
    if (trailer != 0) store_be(stream.subspan(whole - trailer), hash);
    totals.add(hash, whole);
    stream = stream.subspan(whole);
  }
}

StreamOutcome run_stream_scenario(std::span<const uint8_t> input) {
  if (input.size() < 2) return {};
  Options options;
  options.piece = size_t{1} + input[0];
  if ((input[1] & 1) != 0) options.direction = StreamDirection::kToSource;
  options.pass = (input[1] & 2) != 0;
  const auto bytes = std::as_bytes(input.subspan(2));
  std::vector<std::byte> stream(bytes.begin(), bytes.end());
  if ((input[1] & 4) != 0) repair_stream(stream);
  const StreamOutcome out = read_all(stream, options);
  // Whatever the pieces are.
  options.piece = stream.size() + 1;
  const StreamOutcome again = read_all(stream, options);
  check(again.status == out.status && again.records == out.records);
  return out;
}

}  // namespace vhost
