// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_ENGINE_OPEN_FDS_H_
#define TESTS_MIGRATION_ENGINE_OPEN_FDS_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <iterator>

namespace vhost {

// A test after which no descriptor is open that was not before it.
class NoFdLeft : public ::testing::Test {
 protected:
  ~NoFdLeft() override { EXPECT_EQ(count(), before_); }

 private:
  static size_t count() {
    const auto end = std::filesystem::directory_iterator();
    return static_cast<size_t>(std::distance(
        std::filesystem::directory_iterator("/proc/self/fd"), end));
  }

  const size_t before_ = count();
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_ENGINE_OPEN_FDS_H_
