// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/fs_scenario.h"

#include <linux/fuse.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>

#include "vhostdev/testing/model_fs.h"

namespace vhost {
namespace {

// More finds nothing else and takes longer.
constexpr size_t kMostRoom = 1024;  // Bytes.
constexpr int kMostRequests = 32;

void check(bool condition) {
  if (!condition) std::abort();
}

struct Record {
  uint8_t flags;
  uint8_t opcode;
  uint8_t node;
  uint8_t room[2];
  uint8_t size;
};

// `bytes` in pieces of at most `piece` bytes.
std::vector<testing::ModelSegment> split(std::span<std::byte> bytes,
                                         size_t piece) {
  std::vector<testing::ModelSegment> out;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    const size_t size = std::min(piece, bytes.size() - at);
    out.push_back({bytes.data() + at, static_cast<uint32_t>(size), at});
  }
  return out;
}

class Runner {
 public:
  Runner() {
    check(fs_.add_file("a/b", "contents").ok());
    check(fs_.add_file("c", std::string(5000, 'c')).ok());
  }

  void run(const Record& record, std::span<const uint8_t> arguments) {
    fuse_in_header header = {};
    header.len = static_cast<uint32_t>(sizeof(header) + arguments.size());
    if ((record.flags & 2) != 0) ++header.len;
    header.opcode = record.opcode;
    header.nodeid = record.node;
    header.unique = ++unique_;
    std::vector<std::byte> in(sizeof(header) + arguments.size());
    std::memcpy(in.data(), &header, sizeof(header));
    std::copy_n(std::as_bytes(arguments).data(), arguments.size(),
                in.data() + sizeof(header));
    std::vector<std::byte> room((record.room[0] | size_t{record.room[1]} << 8) %
                                kMostRoom);
    testing::ModelRequest request;
    request.queue = (record.flags & 1) != 0 ? 0 : 1;
    const size_t piece = (record.flags >> 2) + size_t{1};
    request.readable = split(in, piece);
    request.writable = split(room, piece);
    const uint64_t held = fs_.lookups();
    const auto written = fs_.handle(request);
    if (!written.ok()) {
      seen.broken.emplace_back(written.status().message());
    } else if (request.queue == 0) {
      check(*written == 0);
      seen.forgotten += static_cast<uint32_t>(held - fs_.lookups());
    } else {
      take(record.opcode, std::span(room), *written);
    }
    check(fs_.open_files() <= testing::ModelFs::kMaxOpen);
  }

  FsScenario seen;

 private:
  void take(uint32_t opcode, std::span<const std::byte> room,
            uint32_t written) {
    fuse_out_header out;
    check(written >= sizeof(out) && written <= room.size());
    std::memcpy(&out, room.data(), sizeof(out));
    check(out.len == written && out.unique == unique_);
    check(out.error <= 0 && out.error > -512);
    check(out.error == 0 || written == sizeof(out));
    ++seen.answered;
    if (out.error != 0) return seen.errors.push_back(-out.error);
    if (opcode == FUSE_OPEN) ++seen.opened;
    if (opcode == FUSE_RELEASE) ++seen.released;
    if (opcode == FUSE_READ) {
      seen.bytes_read += written - static_cast<uint32_t>(sizeof(out));
    }
  }

  testing::ModelFs fs_;
  uint64_t unique_ = 0;
};

}  // namespace

FsScenario run_fs_scenario(const uint8_t* data, size_t size) {
  Runner runner;
  std::span<const uint8_t> left(data, size);
  for (int i = 0; i < kMostRequests && left.size() >= sizeof(Record); ++i) {
    Record record;
    std::memcpy(&record, left.data(), sizeof(record));
    left = left.subspan(sizeof(record));
    const size_t arguments = std::min<size_t>(record.size, left.size());
    runner.run(record, left.first(arguments));
    left = left.subspan(arguments);
  }
  return runner.seen;
}

}  // namespace vhost
