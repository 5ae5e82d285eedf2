// SPDX-License-Identifier: Apache-2.0
//
// The file system of the model back-end, fed with requests by hand.

#include "vhostdev/testing/model_fs.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vhost::testing {
namespace {

struct Answer {
  fuse_out_header header = {};
  std::vector<std::byte> body;
  uint32_t written = 0;

  template <typename T>
  T as() const {
    T out = {};
    EXPECT_EQ(body.size(), sizeof(out));
    std::memcpy(&out, body.data(), std::min(body.size(), sizeof(out)));
    return out;
  }
  std::string text() const {
    return {reinterpret_cast<const char*>(body.data()), body.size()};
  }
};

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> name(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  out.push_back(std::byte{0});
  return out;
}

class ModelFsTest : public ::testing::Test {
 protected:
  ModelFsTest() {
    EXPECT_TRUE(fs_.add_file("etc/motd", "hello, guest\n").ok());
    EXPECT_TRUE(fs_.add_file("big", std::string(100'000, 'b')).ok());
    EXPECT_TRUE(fs_.add_folder("empty").ok());
  }

  // Raw bytes to a queue, with room for an answer of so many bytes; both in
  // pieces of seven bytes.
  absl::StatusOr<uint32_t> handle(uint32_t queue, std::vector<std::byte> bytes,
                                  std::vector<std::byte>& room) {
    ModelRequest request;
    request.queue = queue;
    const auto split = [](std::vector<std::byte>& all) {
      std::vector<ModelSegment> out;
      for (size_t at = 0; at < all.size(); at += 7) {
        const size_t size = std::min<size_t>(7, all.size() - at);
        out.push_back({all.data() + at, static_cast<uint32_t>(size), at});
      }
      return out;
    };
    request.readable = split(bytes);
    request.writable = split(room);
    return fs_.handle(request);
  }

  static std::vector<std::byte> message(uint32_t opcode, uint64_t node,
                                        const std::vector<std::byte>& in) {
    fuse_in_header header = {};
    header.len = static_cast<uint32_t>(sizeof(header) + in.size());
    header.opcode = opcode;
    header.unique = 42;
    header.nodeid = node;
    std::vector<std::byte> out = bytes_of(header);
    out.insert(out.end(), in.begin(), in.end());
    return out;
  }

  Answer ask(uint32_t opcode, uint64_t node, const std::vector<std::byte>& in,
             size_t room_size = 4096) {
    std::vector<std::byte> room(room_size, std::byte{0xee});
    const auto written = handle(1, message(opcode, node, in), room);
    EXPECT_TRUE(written.ok()) << written.status();
    Answer out;
    out.written = written.value_or(0);
    EXPECT_GE(out.written, sizeof(out.header));
    std::memcpy(&out.header, room.data(), sizeof(out.header));
    EXPECT_EQ(out.header.len, out.written);
    EXPECT_EQ(out.header.unique, 42u);
    out.body.assign(room.begin() + sizeof(out.header),
                    room.begin() + out.written);
    return out;
  }
  int error(uint32_t opcode, uint64_t node, const std::vector<std::byte>& in,
            size_t room_size = 4096) {
    return -ask(opcode, node, in, room_size).header.error;
  }

  fuse_init_out init() {
    fuse_init_in in = {};
    in.major = 7;
    in.minor = 31;
    in.flags = FUSE_MAX_PAGES | FUSE_POSIX_LOCKS;
    return ask(FUSE_INIT, 0, bytes_of(in)).as<fuse_init_out>();
  }
  fuse_entry_out lookup(uint64_t folder, const std::string& text) {
    return ask(FUSE_LOOKUP, folder, name(text)).as<fuse_entry_out>();
  }
  uint64_t motd() { return lookup(lookup(1, "etc").nodeid, "motd").nodeid; }
  uint64_t open(uint64_t node) {
    return ask(FUSE_OPEN, node, bytes_of(fuse_open_in{}))
        .as<fuse_open_out>()
        .fh;
  }
  static std::vector<std::byte> read_in(uint64_t handle, uint64_t offset,
                                        uint32_t size) {
    fuse_read_in in = {};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return bytes_of(in);
  }
  absl::Status forget(uint64_t node, uint64_t count, uint32_t queue = 0) {
    std::vector<std::byte> none;
    return handle(queue,
                  message(FUSE_FORGET, node, bytes_of(fuse_forget_in{count})),
                  none)
        .status();
  }

  ModelFs fs_;
};

TEST_F(ModelFsTest, AgreesOnAVersionAndOnWhatItCanDo) {
  const fuse_init_out out = init();
  EXPECT_EQ(out.major, 7u);
  EXPECT_EQ(out.minor, 36u);
  EXPECT_EQ(out.flags, uint32_t{FUSE_MAX_PAGES});
  EXPECT_EQ(out.max_pages, 256u);
  EXPECT_EQ(out.max_write, 1u << 20);
  EXPECT_TRUE(fs_.initialized());
}

TEST_F(ModelFsTest, DoesNothingBeforeInit) {
  EXPECT_EQ(error(FUSE_LOOKUP, 1, name("etc")), EIO);
  EXPECT_EQ(error(FUSE_GETATTR, 1, {}), EIO);
  fs_.reset();
  EXPECT_EQ(error(FUSE_LOOKUP, 1, name("etc")), EIO);
}

TEST_F(ModelFsTest, FindsOpensReadsAndReleasesAFile) {
  init();
  const uint64_t node = motd();
  EXPECT_EQ(ask(FUSE_GETATTR, node, {}).as<fuse_attr_out>().attr.size, 13u);
  const uint64_t handle = open(node);
  EXPECT_EQ(fs_.open_files(), 1u);
  EXPECT_EQ(ask(FUSE_READ, node, read_in(handle, 0, 100)).text(),
            "hello, guest\n");
  EXPECT_EQ(ask(FUSE_READ, node, read_in(handle, 7, 5)).text(), "guest");
  EXPECT_EQ(ask(FUSE_READ, node, read_in(handle, 13, 5)).text(), "");
  EXPECT_EQ(ask(FUSE_READ, node, read_in(handle, ~0ull, 5)).text(), "");
  fuse_release_in release = {};
  release.fh = handle;
  EXPECT_EQ(error(FUSE_RELEASE, node, bytes_of(release)), 0);
  EXPECT_EQ(fs_.open_files(), 0u);
  EXPECT_EQ(error(FUSE_RELEASE, node, bytes_of(release)), EBADF);
}

TEST_F(ModelFsTest, TellsFoldersFromFiles) {
  init();
  EXPECT_EQ(lookup(1, "empty").attr.mode & S_IFMT, unsigned{S_IFDIR});
  const fuse_entry_out big = lookup(1, "big");
  EXPECT_EQ(big.attr.mode & S_IFMT, unsigned{S_IFREG});
  EXPECT_EQ(big.attr.size, 100'000u);
  EXPECT_EQ(error(FUSE_LOOKUP, big.nodeid, name("x")), ENOTDIR);
  EXPECT_EQ(error(FUSE_OPEN, 1, bytes_of(fuse_open_in{})), EISDIR);
}

TEST_F(ModelFsTest, RefusesWhatItHasNotOrCannotDo) {
  init();
  EXPECT_EQ(error(FUSE_LOOKUP, 1, name("nothing")), ENOENT);
  EXPECT_EQ(error(FUSE_LOOKUP, 99, name("etc")), ENOENT);
  EXPECT_EQ(error(FUSE_GETATTR, 0, {}), ENOENT);
  EXPECT_EQ(error(FUSE_STATFS, 1, {}), ENOSYS);
  EXPECT_EQ(error(4711, 1, {}), ENOSYS);
  fuse_open_in writing = {};
  writing.flags = O_RDWR;
  EXPECT_EQ(error(FUSE_OPEN, motd(), bytes_of(writing)), EROFS);
}

TEST_F(ModelFsTest, CountsLookupsUntilTheyAreForgotten) {
  init();
  const uint64_t node = motd();
  motd();
  EXPECT_EQ(fs_.lookups(), 4u);
  EXPECT_TRUE(forget(node, 1).ok());
  EXPECT_EQ(error(FUSE_GETATTR, node, {}), 0);
  EXPECT_TRUE(forget(node, 1).ok());
  EXPECT_EQ(error(FUSE_GETATTR, node, {}), ENOENT);
  EXPECT_EQ(fs_.lookups(), 2u);
}

TEST_F(ModelFsTest, ForgetsMoreThanThereIsAndWhatIsNotThere) {
  init();
  const uint64_t node = motd();
  EXPECT_TRUE(forget(node, ~0ull).ok());
  EXPECT_TRUE(forget(node, 1).ok());
  EXPECT_TRUE(forget(1, 1).ok());
  EXPECT_TRUE(forget(1'000'000, 1).ok());
  EXPECT_EQ(fs_.lookups(), 1u);
}

TEST_F(ModelFsTest, ForgetsInABatch) {
  init();
  const uint64_t node = motd();
  std::vector<std::byte> in = bytes_of(fuse_batch_forget_in{2, 0});
  for (const fuse_forget_one& one :
       {fuse_forget_one{node, 1}, fuse_forget_one{2, 1}}) {
    const std::vector<std::byte> more = bytes_of(one);
    in.insert(in.end(), more.begin(), more.end());
  }
  std::vector<std::byte> none;
  EXPECT_TRUE(handle(0, message(FUSE_BATCH_FORGET, 0, in), none).ok());
  EXPECT_EQ(fs_.lookups(), 0u);
  in[0] = std::byte{3};
  EXPECT_FALSE(handle(0, message(FUSE_BATCH_FORGET, 0, in), none).ok());
}

TEST_F(ModelFsTest, RefusesRequestsThatAreCutOff) {
  init();
  const uint64_t node = motd();
  EXPECT_EQ(error(FUSE_OPEN, node, {}), EINVAL);
  EXPECT_EQ(error(FUSE_READ, node, bytes_of(uint64_t{1})), EINVAL);
  EXPECT_EQ(error(FUSE_RELEASE, node, {}), EINVAL);
  EXPECT_EQ(error(FUSE_LOOKUP, 1, {}), EINVAL);
  EXPECT_EQ(error(FUSE_LOOKUP, 1, bytes_of('e')), EINVAL) << "no end";
  EXPECT_EQ(error(FUSE_INIT, 0, bytes_of(uint64_t{7})), EPROTO);
}

TEST_F(ModelFsTest, RefusesAnswersThatHaveNoRoom) {
  init();
  const uint64_t node = motd();
  const uint64_t handle = open(node);
  const uint64_t held = fs_.lookups();
  EXPECT_EQ(error(FUSE_LOOKUP, 1, name("etc"), 100), EINVAL);
  EXPECT_EQ(fs_.lookups(), held) << "and holds nothing";
  EXPECT_EQ(error(FUSE_OPEN, node, bytes_of(fuse_open_in{}), 16), EINVAL);
  EXPECT_EQ(fs_.open_files(), 1u);
  EXPECT_EQ(error(FUSE_GETATTR, node, {}, 20), EINVAL);
  EXPECT_EQ(error(FUSE_READ, node, read_in(handle, 0, 100), 115), EINVAL);
  EXPECT_EQ(error(FUSE_READ, node, read_in(handle, 0, 99), 115), 0);
}

TEST_F(ModelFsTest, ReadsOnlyWhatIsOpen) {
  init();
  const uint64_t node = motd();
  const uint64_t handle = open(node);
  const uint64_t big = lookup(1, "big").nodeid;
  EXPECT_EQ(error(FUSE_READ, node, read_in(handle + 1, 0, 10)), EBADF);
  EXPECT_EQ(error(FUSE_READ, big, read_in(handle, 0, 10)), EBADF);
}

TEST_F(ModelFsTest, HasALimitOfOpenFiles) {
  init();
  const uint64_t node = motd();
  for (size_t i = 0; i < ModelFs::kMaxOpen; ++i) open(node);
  EXPECT_EQ(error(FUSE_OPEN, node, bytes_of(fuse_open_in{})), ENFILE);
}

TEST_F(ModelFsTest, BreaksTheRingOverWhatCannotBeAnswered) {
  std::vector<std::byte> room(4096);
  std::vector<std::byte> none;
  std::vector<std::byte> whole = message(FUSE_LOOKUP, 1, name("etc"));
  EXPECT_FALSE(handle(1, {}, room).ok());
  EXPECT_FALSE(handle(1, {whole.begin(), whole.begin() + 39}, room).ok());
  EXPECT_FALSE(handle(1, whole, none).ok()) << "no room";
  EXPECT_FALSE(handle(0, whole, room).ok()) << "on the wrong queue";
  EXPECT_FALSE(forget(2, 1, 1).ok()) << "on the wrong queue";
  whole.push_back(std::byte{0});
  EXPECT_FALSE(handle(1, whole, room).ok()) << "longer than it says";
}

TEST_F(ModelFsTest, HasAConfigurationOnlyWithATag) {
  EXPECT_TRUE(fs_.config().empty());
  const ModelFs tagged(ModelFsOptions{.tag = "shared", .request_queues = 3});
  const std::vector<std::byte> config = tagged.config();
  ASSERT_EQ(config.size(), 40u);
  EXPECT_STREQ(reinterpret_cast<const char*>(config.data()), "shared");
  EXPECT_EQ(config[36], std::byte{3});
}

TEST_F(ModelFsTest, PutsNothingInsideAFileOrTwiceAtOnePlace) {
  EXPECT_FALSE(fs_.add_file("big/more", "").ok());
  EXPECT_FALSE(fs_.add_file("big", "").ok());
  EXPECT_FALSE(fs_.add_folder("big").ok());
  EXPECT_FALSE(fs_.add_file("", "").ok());
  EXPECT_TRUE(fs_.add_folder("empty").ok());
}

}  // namespace
}  // namespace vhost::testing
