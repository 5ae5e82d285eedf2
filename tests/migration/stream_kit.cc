// SPDX-License-Identifier: Apache-2.0
#include "tests/migration/stream_kit.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "migration/bytes.h"

namespace vhost {
namespace {

void append(Bytes& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// Two pages that differ.
Bytes sample_pages() {
  Bytes out(2 * 4096, std::byte{0x11});
  std::fill(out.begin() + 4096, out.end(), std::byte{0x22});
  return out;
}

void add(StreamWriter& writer, RecordType type, uint32_t id,
         std::span<const std::byte> payload) {
  writer.record(type, id, payload).IgnoreError();
}

void add_memory(StreamWriter& writer) {
  const RamBlock hot = {
      .id = 2, .name = "hotplug0", .gpa = 0x1'0000'0000, .size = 0x10000};
  add(writer, RecordType::kRamBlocks, 0, *encode(std::span(&hot, 1)));
  writer
      .record(RecordType::kRamPages, 0, encode_ram_pages_head(7, 2),
              sample_pages())
      .IgnoreError();
  add(writer, RecordType::kRamZeroPages, 1,
      encode(RamZeroPages{.first_page = 0, .count = 16}));
  add(writer, RecordType::kRoundEnd, 0,
      encode(RoundEnd{.round = 3, .sent_bytes = 8192, .dirty_bytes = 4096}));
  add(writer, RecordType::kSwitchover, 0, {});
  add(writer, RecordType::kRamHash, 0,
      encode(RamHash{.size = 0x100000,
                     .hash = ram_hash(0, Bytes(0x100000, std::byte{0x55}))}));
}

void add_devices(StreamWriter& writer) {
  add(writer, RecordType::kDeviceCore, 5, encode(sample_core()));
  add(writer, RecordType::kDeviceConfig, 5, Bytes(60, std::byte{0xc0}));
  const Bytes area(256, std::byte{0x77});
  const InflightLayout layout = *sample_manifest().devices[0].inflight;
  add(writer, RecordType::kInflight, 5,
      encode(InflightPiece{
          .layout = layout, .offset = 0, .bytes = std::span(area).first(100)}));
  add(writer, RecordType::kInflight, 5,
      encode(InflightPiece{.layout = layout,
                           .offset = 100,
                           .bytes = std::span(area).subspan(100)}));
  Bytes chunk;
  put(chunk, uint32_t{11});
  append(chunk, to_bytes("open files:"));
  add(writer, RecordType::kBackendState, 9, chunk);
  chunk.clear();
  put(chunk, uint32_t{5});
  append(chunk, to_bytes(" none"));
  add(writer, RecordType::kBackendState, 9, chunk);
  chunk.clear();
  put(chunk, uint32_t{0});
  add(writer, RecordType::kBackendStateEnd, 9, chunk);
  add(writer, RecordType::kGuest, 0, to_bytes("two vCPUs and a timer"));
}

}  // namespace

ReadResult read_stream(std::span<const std::byte> stream, size_t piece,
                       StreamDirection direction, const StreamLimits& limits) {
  ReadResult out;
  StreamReader reader(direction, limits);
  const auto count =
      absl::MakeCleanup([&out, &reader] { out.skipped = reader.skipped(); });
  while (true) {
    const size_t size = std::min(piece, stream.size());
    stream = stream.subspan(reader.feed(stream.first(size)));
    while (true) {
      const absl::StatusOr<std::optional<StreamRecord>> record = reader.next();
      if (!record.ok()) {
        out.status = record.status();
        return out;
      }
      if (!record->has_value()) break;
      const StreamRecord& one = **record;
      out.records.push_back(
          {one.type, one.id, Bytes(one.payload.begin(), one.payload.end())});
    }
    if (stream.empty()) break;
  }
  out.status = reader.finish();
  return out;
}

Bytes take_pending(StreamWriter& writer) {
  const std::span<const std::byte> pending = writer.pending();
  Bytes out(pending.begin(), pending.end());
  writer.consume(out.size());
  return out;
}

Bytes craft_record(const RecordHead& head, std::span<const std::byte> payload,
                   Integrity integrity) {
  RecordHead whole = head;
  whole.size = static_cast<uint32_t>(payload.size());
  const RecordHeadBytes bytes = encode_record_head(whole);
  Bytes out(bytes.begin(), bytes.end());
  append(out, payload);
  if (integrity == Integrity::kXxh3) {
    put(out, hash_record(bytes, payload, integrity));
  }
  return out;
}

Bytes craft_stream(const StreamHeader& header,
                   std::initializer_list<Bytes> records) {
  const HeaderBytes bytes = encode_stream_header(header);
  Bytes out(bytes.begin(), bytes.end());
  for (const Bytes& record : records) append(out, record);
  return out;
}

Manifest sample_manifest() {
  Manifest out;
  out.blocks = {{.id = 0, .name = "ram", .gpa = 0, .size = 0x100000},
                {.id = 1, .name = "rom-shadow", .gpa = 0xc0000, .size = 65536}};
  DeviceManifest disk;
  disk.id = 5;
  disk.name = "disk0";
  disk.virtio_id = kDeviceIdBlock;
  disk.device_class = "virtio-blk-mmio";
  disk.backend = "vhost-user";
  disk.queue_sizes = {256, 128};
  disk.offered = {kFeatureVersion1, kFeatureEventIdx, kFeatureIndirectDesc, 9};
  disk.acked = {kFeatureVersion1, kFeatureEventIdx, 9};
  disk.protocol_features = 0x9001;
  disk.max_memory_slots = 32;
  disk.config_length = 60;
  disk.inflight = InflightLayout{.size = 256, .queues = 2, .queue_size = 128};
  DeviceManifest files = disk;
  files.id = 9;
  files.name = "files";
  files.virtio_id = kDeviceIdFs;
  files.device_class = "virtio-fs-mmio";
  files.queue_sizes = {1024};
  files.offered = files.acked = {kFeatureVersion1};
  files.protocol_features = 0x8'9001;
  files.config_length = 0;
  files.device_state = true;
  files.inflight.reset();
  out.devices = {disk, files};
  return out;
}

DeviceCore sample_core() {
  DeviceCore out;
  out.status = 0x0f;
  out.isr = 1;
  out.config_generation = 4;
  out.features = {kFeatureVersion1, kFeatureEventIdx, 9};
  out.queues = {{.num = 256,
                 .desc = 0x10000,
                 .avail = 0x11000,
                 .used = 0x12000,
                 .base = VringBase{0xffff},
                 .used_idx = 0xfff0,
                 .ready = true,
                 .enabled = true},
                {}};
  return out;
}

Bytes sample_stream(Integrity integrity) {
  StreamWriter writer(integrity);
  Manifest manifest = sample_manifest();
  manifest.integrity = integrity;
  add(writer, RecordType::kManifest, 0, *encode(manifest));
  add_memory(writer);
  add_devices(writer);
  writer.state_end().IgnoreError();
  add(writer, RecordType::kCommit, 0, {});
  add(writer, RecordType::kAbort, 0,
      encode_abort(absl::CancelledError("for the sake of the sample")));
  writer.end().IgnoreError();
  return take_pending(writer);
}

Bytes sample_answers(Integrity integrity) {
  StreamWriter writer(StreamWriter::Options{
      .direction = StreamDirection::kToSource, .integrity = integrity});
  add(writer, RecordType::kManifestAnswer, 0,
      encode(ManifestAnswer{{"disk0: too large", "files: too many"}}));
  add(writer, RecordType::kReady, 0, {});
  add(writer, RecordType::kPrepared, 0, {});
  add(writer, RecordType::kResumed, 0, {});
  add(writer, RecordType::kAbort, 0,
      encode_abort(absl::AbortedError("vq 1: \x1b[2Jbad base")));
  writer.end().IgnoreError();
  return take_pending(writer);
}

}  // namespace vhost
