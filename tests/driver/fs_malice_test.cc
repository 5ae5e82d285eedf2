// SPDX-License-Identifier: Apache-2.0
//
// Answers that no sound file system device gives.
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "hw/driver/fs_message.h"
#include "hw/driver/fuse_wire.h"
#include "tests/driver/driver_fixture.h"
#include "vhostdev/fs_client.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

fuse_entry_out sound_entry() {
  fuse_entry_out out = {};
  out.nodeid = 7;
  out.attr.mode = S_IFREG | 0644;
  return out;
}

// Answers as they are decoded, without a ring.
class FsAnswerTest : public ::testing::Test {
 protected:
  // An answer with `body`, as it should be.
  void answer(const std::vector<std::byte>& body) {
    fuse_out_header header = {};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.unique = kUnique;
    written = header.len;
    bytes = bytes_of(header);
    bytes.insert(bytes.end(), body.begin(), body.end());
  }
  fuse_out_header& header() {
    return *reinterpret_cast<fuse_out_header*>(bytes.data());
  }
  FsCompletion decode(FsOp op) {
    FsCompletion out;
    std::vector<std::byte> area = bytes;
    area.resize(fs_answer_size(op));
    decode_fs_answer({.op = op, .unique = kUnique, .data_size = 100}, area,
                     written, out, session);
    return out;
  }
  absl::StatusCode code(FsOp op) { return decode(op).status.code(); }

  static constexpr uint64_t kUnique = 12;
  static constexpr auto kNonsense = absl::StatusCode::kDataLoss;
  std::vector<std::byte> bytes;
  uint32_t written = 0;
  FsSession session;
};

TEST_F(FsAnswerTest, AreTakenWhenTheyAreSound) {
  answer(bytes_of(sound_entry()));
  EXPECT_EQ(decode(FsOp::kLookup).node.id, 7u);
  answer(bytes_of(fuse_open_out{.fh = 9, .open_flags = 0, .padding = 0}));
  EXPECT_EQ(decode(FsOp::kOpen).handle, 9u);
  answer({});
  EXPECT_EQ(code(FsOp::kRelease), absl::StatusCode::kOk);
  EXPECT_EQ(decode(FsOp::kRead).bytes, 0u);
  header().len = written = 16 + 100;
  EXPECT_EQ(decode(FsOp::kRead).bytes, 100u);
}

TEST_F(FsAnswerTest, BelongToTheRequestThatHasTheirNumber) {
  answer({});
  header().unique = 14;
  const FsCompletion out = decode(FsOp::kRelease);
  EXPECT_TRUE(absl::IsDataLoss(out.status));
  EXPECT_THAT(std::string(out.status.message()),
              HasSubstr("number 14 to request 12"));
}

TEST_F(FsAnswerTest, HaveTheLengthThatWasWritten) {
  answer({});
  for (const uint32_t length : {0u, 15u, 17u, ~0u}) {
    header().len = length;
    EXPECT_EQ(code(FsOp::kRelease), kNonsense) << length;
  }
  header().len = 16;
  for (const uint32_t size : {0u, 1u, 15u}) {
    written = size;
    EXPECT_EQ(code(FsOp::kRelease), kNonsense) << size;
  }
}

TEST_F(FsAnswerTest, HaveTheLengthOfTheirOperation) {
  answer(bytes_of(sound_entry()));
  EXPECT_EQ(code(FsOp::kGetAttributes), kNonsense);
  EXPECT_EQ(code(FsOp::kOpen), kNonsense);
  EXPECT_EQ(code(FsOp::kRelease), kNonsense);
  EXPECT_EQ(code(FsOp::kRead), kNonsense) << "more than was asked for";
  header().len = 16 + 127;
  EXPECT_EQ(code(FsOp::kLookup), kNonsense);
  answer({});
  EXPECT_EQ(code(FsOp::kInit), kNonsense);
  EXPECT_EQ(code(FsOp::kLookup), kNonsense);
}

TEST_F(FsAnswerTest, HaveErrorsThatThereAre) {
  struct Case {
    int32_t error;
    absl::StatusCode code;
  };
  answer({});
  for (const Case& one :
       {Case{-ENOENT, absl::StatusCode::kNotFound},
        Case{-EACCES, absl::StatusCode::kPermissionDenied},
        Case{-EROFS, absl::StatusCode::kPermissionDenied},
        Case{-ENOSYS, absl::StatusCode::kUnimplemented},
        Case{-EIO, absl::StatusCode::kAborted},
        // What would mean a lost back-end if a socket said it.
        Case{-ENODEV, absl::StatusCode::kAborted},
        Case{-511, absl::StatusCode::kAborted}, Case{-512, kNonsense},
        Case{1, kNonsense}, Case{ENOENT, kNonsense}, Case{INT32_MIN, kNonsense},
        Case{INT32_MAX, kNonsense}}) {
    header().error = one.error;
    EXPECT_EQ(code(FsOp::kLookup), one.code) << one.error;
  }
  answer(bytes_of(sound_entry()));
  header().error = -ENOENT;
  EXPECT_EQ(code(FsOp::kLookup), kNonsense) << "an error and an answer";
}

TEST_F(FsAnswerTest, NameNodesThatThereCanBe) {
  fuse_entry_out entry = sound_entry();
  const auto code_of = [&] {
    answer(bytes_of(entry));
    return code(FsOp::kLookup);
  };
  EXPECT_EQ(code_of(), absl::StatusCode::kOk);
  entry.nodeid = 0;
  EXPECT_EQ(code_of(), absl::StatusCode::kNotFound);
  entry.nodeid = kFsRootNode;
  EXPECT_EQ(code_of(), kNonsense);
  entry = sound_entry();
  entry.attr.mode = 0644;
  EXPECT_EQ(code_of(), kNonsense) << "no kind of file";
  entry = sound_entry();
  entry.attr.size = ~uint64_t{0};
  EXPECT_EQ(code_of(), kNonsense);
}

TEST_F(FsAnswerTest, OfInitAreLimitedToWhatWasAsked) {
  fuse_init_out init = {};
  init.major = 7;
  init.minor = 99;
  init.flags = ~0u;
  init.max_pages = 65535;
  init.max_write = 1;
  init.max_readahead = ~0u;
  answer(bytes_of(init));
  ASSERT_EQ(code(FsOp::kInit), absl::StatusCode::kOk);
  EXPECT_EQ(session.minor, kFuseMinor);
  EXPECT_EQ(session.flags, uint32_t{FUSE_ASYNC_READ | FUSE_MAX_PAGES});
  EXPECT_EQ(session.max_read, 1u << 20);
  EXPECT_EQ(session.max_write, 4096u);
  EXPECT_EQ(session.max_readahead, 128u * 1024);
  init.max_pages = 0;
  answer(bytes_of(init));
  ASSERT_EQ(code(FsOp::kInit), absl::StatusCode::kOk);
  EXPECT_EQ(session.max_read, 128u * 1024);
  for (const uint32_t major : {0u, 6u, 8u}) {
    init.major = major;
    answer(bytes_of(init));
    EXPECT_EQ(code(FsOp::kInit), absl::StatusCode::kUnimplemented);
  }
}

// The test is the device, behind rings.
class FsMaliceTest : public DriverTest {
 protected:
  void make_client() {
    make_running(2);
    std::vector<QueueHandle> queues;
    queues.push_back(driver->acquire(kVq0).value());
    queues.push_back(driver->acquire(kVq1).value());
    client = FsClient::create(*driver, std::move(queues),
                              {.major = 7, .minor = 31, .max_read = 4096},
                              {.depth = 4, .uid = 1000, .gid = 100, .pid = 7})
                 .value();
    data = dma.allocate(512).value();
    urgent = device_of(kVq0);
    device = device_of(kVq1);
  }

  void submit(FsOp op, uint64_t cookie) {
    FsRequest request;
    request.op = op;
    request.node = 2;
    request.cookie = cookie;
    if (op == FsOp::kRead) request.buffers = std::span(&data.span(), 1);
    ASSERT_TRUE(client->submit(request).ok());
    ASSERT_TRUE(client->kick().ok());
  }

  // Answers the next request, of which only the header is looked at.
  void answer(const std::vector<std::byte>& body, uint32_t more = 0) {
    const auto chain = device->pop();
    ASSERT_TRUE(chain.has_value());
    fuse_in_header in;
    std::memcpy(&in, memory.translate(chain->readable[0].addr, sizeof(in)),
                sizeof(in));
    fuse_out_header out = {};
    out.len = static_cast<uint32_t>(sizeof(out) + body.size()) + more;
    out.unique = in.unique;
    std::byte* const at =
        memory.translate(chain->writable[0].addr, sizeof(out) + body.size());
    std::memcpy(at, &out, sizeof(out));
    std::copy(body.begin(), body.end(), at + sizeof(out));
    device->complete(chain->head, out.len);
  }

  std::unique_ptr<FsClient> client;
  DmaBuffer data;
  std::optional<RingDevice> urgent;
  std::optional<RingDevice> device;
  std::array<FsCompletion, 4> done;
};

TEST_F(FsMaliceTest, ForgettingGoesToTheFirstQueueAndHasNoAnswer) {
  make_client();
  submit(FsOp::kForget, 1);
  const auto chain = urgent->pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_TRUE(chain->writable.empty());
  EXPECT_FALSE(device->pop().has_value());
  urgent->complete(chain->head, 0);
  ASSERT_EQ(client->poll(done), 1u);
  EXPECT_TRUE(done[0].status.ok()) << done[0].status;
}

TEST_F(FsMaliceTest, EveryRequestHasANumberOfItsOwnAndSaysWhoAsks) {
  make_client();
  std::vector<uint64_t> numbers;
  for (const FsOp op : {FsOp::kGetAttributes, FsOp::kRead, FsOp::kOpen}) {
    submit(op, 0);
    const auto chain = device->pop();
    fuse_in_header in;
    std::memcpy(&in, memory.translate(chain->readable[0].addr, sizeof(in)),
                sizeof(in));
    EXPECT_EQ(in.len, chain->readable[0].len);
    EXPECT_EQ(in.nodeid, 2u);
    EXPECT_EQ(in.uid, 1000u);
    EXPECT_EQ(in.gid, 100u);
    EXPECT_EQ(in.pid, 7u);
    numbers.push_back(in.unique);
  }
  EXPECT_THAT(numbers, ::testing::ElementsAre(2u, 4u, 6u));
}

TEST_F(FsMaliceTest, AnAnswerThatWasNotWrittenIsNone) {
  make_client();
  submit(FsOp::kRead, 1);
  answer({}, 512);
  ASSERT_EQ(client->poll(done), 1u);
  EXPECT_TRUE(done[0].status.ok()) << done[0].status;
  submit(FsOp::kRead, 2);
  const auto chain = device->pop();
  device->complete(chain->head, 528);
  ASSERT_EQ(client->poll(done), 1u);
  EXPECT_TRUE(absl::IsDataLoss(done[0].status)) << done[0].status;
  EXPECT_TRUE(client->status().ok()) << "only that request is lost";
}

TEST_F(FsMaliceTest, AnAnswerTwiceBreaksTheQueueAndFailsTheRestOnce) {
  make_client();
  submit(FsOp::kRelease, 1);
  submit(FsOp::kRelease, 2);
  answer({});
  device->complete(7, 0);
  ASSERT_EQ(client->poll(done), 2u);
  EXPECT_TRUE(done[0].status.ok()) << done[0].status;
  EXPECT_EQ(done[1].cookie, 2u);
  EXPECT_TRUE(absl::IsDataLoss(done[1].status)) << done[1].status;
  EXPECT_THAT(std::string(done[1].status.message()), HasSubstr("vq 1: device"));
  EXPECT_EQ(client->poll(done), 0u);
  EXPECT_TRUE(absl::IsDataLoss(client->submit({})));
}

TEST_F(FsMaliceTest, WhatCompletedBeforeTheDeathCounts) {
  make_client();
  submit(FsOp::kRelease, 1);
  submit(FsOp::kRelease, 2);
  answer({});
  lose_backend();
  ASSERT_EQ(client->poll(std::span(done).first(1)), 1u);
  EXPECT_TRUE(done[0].status.ok());
  ASSERT_EQ(client->wait(done), 1u);
  EXPECT_TRUE(absl::IsUnavailable(done[0].status));
  EXPECT_EQ(done[0].cookie, 2u);
}

}  // namespace
}  // namespace vhost
