// SPDX-License-Identifier: Apache-2.0
//
// A recorded stream of a guest, damaged or cut off at sampled places: whatever
// it was, it is refused and no guest runs.  Two programs are made of this: one
// for each day's tests, and one that takes ten times as many samples
// (VHOSTDEV_NIGHTLY).
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/migration/engine/pair.h"
#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::AnyOf;

#ifdef VHOSTDEV_NIGHTLY
constexpr int kSamples = 2000;
#else
constexpr int kSamples = 200;
#endif

class SampledStream : public MigrationPair {
 protected:
  SampledStream() {
    std::cout << "seed " << seed_ << "\n";
    for (const auto& toy : source_vmm.toys) toy->config_length = 8;
    for (const auto& toy : destination_vmm.toys) toy->config_length = 8;
    source_vmm.toys[0]->serve(9);
    source_vmm.registers = std::string(5000, 'r');
    record();
    destination = std::make_unique<MigrationDestination>(
        loop, destination_vmm.context, destination_vmm, destination_options);
  }

  // What MigrationSource::save() writes, in `stream`.
  void record() {
    const UniqueFd file(::memfd_create("guest", MFD_CLOEXEC));
    source = std::make_unique<MigrationSource>(loop, source_vmm.context,
                                               source_vmm, source_options);
    source->save(UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0)),
                 keep(source_status));
    ASSERT_TRUE(run_until([this] { return source_status.has_value(); }));
    ASSERT_TRUE(source_status->ok()) << *source_status;
    stream.resize(source->progress().stream);
    ASSERT_EQ(::pread(file.get(), stream.data(), stream.size(), 0),
              static_cast<ssize_t>(stream.size()));
  }

  size_t up_to(size_t limit) {
    return std::uniform_int_distribution<size_t>(0, limit - 1)(random_);
  }

  // Most of a stream is pages: half of the samples are near its ends, where the
  // manifest is and what the devices know.
  size_t sample() {
    constexpr size_t kNear = 4096;
    const size_t size = stream.size();
    switch (up_to(4)) {
      case 0:
        return up_to(std::min(kNear, size));
      case 1:
        return size - 1 - up_to(std::min(2 * kNear, size));
      default:
        return up_to(size);
    }
  }

  absl::Status restore(const Bytes& bytes) {
    UniqueFd file(::memfd_create("damaged", MFD_CLOEXEC));
    EXPECT_EQ(::write(file.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
    destination_status.reset();
    destination->restore(std::move(file), keep(destination_status));
    EXPECT_TRUE(run_until([this] { return destination_status.has_value(); }));
    return destination_status.value_or(absl::UnknownError("not over"));
  }

  void expect_refused(const Bytes& bytes) {
    EXPECT_FALSE(read_stream(bytes).status.ok());
    const absl::Status status = restore(bytes);
    // Of a header that is another: a version or a limit that is not known.
    EXPECT_THAT(status.code(), AnyOf(absl::StatusCode::kDataLoss,
                                     absl::StatusCode::kUnimplemented,
                                     absl::StatusCode::kResourceExhausted))
        << status;
    EXPECT_EQ(destination_outcome(), MigrationOutcome::kNotMoved);
    EXPECT_FALSE(destination_vmm.running);
    expect_stopped(destination_vmm);
  }

  const unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
  Bytes stream;
};

TEST_F(SampledStream, WithAnotherByteIsNoGuest) {
  for (int i = 0; i < kSamples; ++i) {
    const size_t at = sample();
    const auto flip = static_cast<std::byte>(1 + up_to(255));
    SCOPED_TRACE(absl::StrCat("seed ", seed_, ": byte ", at, " of ",
                              stream.size(), " ^ ",
                              std::to_integer<int>(flip)));
    Bytes damaged = stream;
    damaged[at] ^= flip;
    ASSERT_NO_FATAL_FAILURE(expect_refused(damaged));
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_EQ(restore(stream), absl::OkStatus());
  EXPECT_TRUE(destination_vmm.running);
  EXPECT_TRUE(source_vmm.content() == destination_vmm.content());
}

TEST_F(SampledStream, ThatIsCutOffIsNoGuest) {
  for (int i = 0; i < kSamples; ++i) {
    const size_t size = sample();
    SCOPED_TRACE(
        absl::StrCat("seed ", seed_, ": ", size, " of ", stream.size()));
    const auto end = stream.begin() + static_cast<ptrdiff_t>(size);
    ASSERT_NO_FATAL_FAILURE(expect_refused(Bytes(stream.begin(), end)));
    EXPECT_EQ(destination_status->code(), absl::StatusCode::kDataLoss);
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_EQ(restore(stream), absl::OkStatus());
  EXPECT_TRUE(destination_vmm.running);
  EXPECT_TRUE(source_vmm.content() == destination_vmm.content());
}

}  // namespace
}  // namespace vhost
