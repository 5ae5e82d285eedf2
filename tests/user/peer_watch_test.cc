// SPDX-License-Identifier: Apache-2.0
#include "backends/user/peer_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "backends/user/socket_io.h"
#include "tests/user/temporary_folder.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::user {
namespace {

void touch(const std::string& path) {
  const UniqueFd made(
      ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
}

class PeerWatchTest : public ::testing::Test {
 protected:
  std::unique_ptr<PeerWatch> watch(const std::string& path) {
    return watch_for_socket(loop, path, inotify, [this] { ++appearances; });
  }
  int look() {
    loop.run_ready();
    return std::exchange(appearances, 0);
  }

  TemporaryFolder folder;
  testing::ManualEventLoop loop;
  std::shared_ptr<UniqueFd> inotify;
  int appearances = 0;
};

TEST_F(PeerWatchTest, TellsOfASocketThatIsMade) {
  const auto watched = watch(folder.file("s"));
  ASSERT_NE(watched, nullptr);
  EXPECT_FALSE(watched->announces_all());
  EXPECT_EQ(look(), 0);

  const absl::StatusOr<Listener> listener =
      Listener::listen_on(folder.file("s"));
  ASSERT_TRUE(listener.ok());

  EXPECT_EQ(look(), 1);
}

TEST_F(PeerWatchTest, TellsOfOneThatIsMovedThereOrOpenedToUs) {
  touch(folder.file("elsewhere"));
  const auto watched = watch(folder.file("s"));

  ASSERT_EQ(
      ::rename(folder.file("elsewhere").c_str(), folder.file("s").c_str()), 0);
  EXPECT_EQ(look(), 1);
  ASSERT_EQ(::chmod(folder.file("s").c_str(), 0666), 0);
  EXPECT_EQ(look(), 1);
}

TEST_F(PeerWatchTest, IsSilentAboutOthers) {
  const auto watched = watch(folder.file("s"));

  touch(folder.file("t"));
  touch(folder.file("ss"));
  ASSERT_EQ(::unlink(folder.file("t").c_str()), 0);

  EXPECT_EQ(look(), 0);
}

TEST_F(PeerWatchTest, OneDescriptorServesOneWatchAfterAnother) {
  auto watched = watch(folder.file("s"));
  ASSERT_NE(inotify, nullptr);
  const int descriptor = inotify->get();
  touch(folder.file("s"));
  watched = nullptr;
  touch(folder.file("s"));
  watched = watch(folder.file("s"));

  EXPECT_EQ(inotify->get(), descriptor);
  // What was before is not told.
  EXPECT_EQ(look(), 0);
  ASSERT_EQ(::chmod(folder.file("s").c_str(), 0666), 0);
  EXPECT_EQ(look(), 1);
}

TEST_F(PeerWatchTest, WithoutAFolderThereIsNothingToWatch) {
  EXPECT_EQ(watch(folder.file("missing/s")), nullptr);
  EXPECT_EQ(watch(folder.file("")), nullptr);
}

TEST_F(PeerWatchTest, MayBeDestroyedByWhatItCalls) {
  std::unique_ptr<PeerWatch> watched;
  int calls = 0;
  watched = watch_for_socket(loop, folder.file("s"), inotify, [&] {
    ++calls;
    watched.reset();
  });

  touch(folder.file("s"));
  loop.run_ready();
  touch(folder.file("s2"));
  loop.run_ready();

  EXPECT_EQ(calls, 1);
  EXPECT_EQ(loop.watches(), 0);
}

TEST_F(PeerWatchTest, AListenerAnnouncesEverybody) {
  absl::StatusOr<Listener> listener = Listener::listen_on(folder.file("s"));
  ASSERT_TRUE(listener.ok());
  std::unique_ptr<PeerWatch> watched =
      watch_listener(loop, listener->fd(), [&] {
        ++appearances;
        watched.reset();
      });
  EXPECT_TRUE(watched->announces_all());
  EXPECT_EQ(look(), 0);

  const auto peer = connect_to(folder.file("s"));
  ASSERT_TRUE(peer.ok());

  EXPECT_EQ(look(), 1);
}

}  // namespace
}  // namespace vhost::user
