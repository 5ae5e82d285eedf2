// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <limits>

#include "tests/driver/driver_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class DriverConfigTest : public DriverTest {
 protected:
  DriverConfigTest() { options.config_size = 60; }

  static std::vector<std::byte> bytes(uint8_t value, size_t count) {
    return std::vector<std::byte>(count, std::byte{value});
  }
};

TEST_F(DriverConfigTest, ReadsWhatTheDeviceHas) {
  auto over = make_ops();
  over->backend.config[8] = std::byte{42};
  make_over(std::move(over));
  ASSERT_TRUE(driver->reset(kWanted).ok());
  std::array<std::byte, 4> out{};
  ASSERT_TRUE(driver->read_config(8, out).ok());
  EXPECT_EQ(out[0], std::byte{42});
}

TEST_F(DriverConfigTest, WritesAsTheDriver) {
  make_running();
  ASSERT_TRUE(driver->write_config(32, bytes(1, 1)).ok());
  EXPECT_EQ(ops->backend.config[32], std::byte{1});
  EXPECT_THAT(*journal, Contains("SetConfig 32+1 driver"));
  std::array<std::byte, 1> out{};
  ASSERT_TRUE(driver->read_config(32, out).ok());
  EXPECT_EQ(out[0], std::byte{1});
}

// VD-31
TEST_F(DriverConfigTest, RefusesWhatIsPastTheEnd) {
  make_reset();
  constexpr uint32_t kMax = std::numeric_limits<uint32_t>::max();
  std::array<std::byte, 61> out{};
  EXPECT_EQ(driver->read_config(0, out).code(), kInvalid);
  EXPECT_EQ(driver->read_config(60, std::span(out).first(1)).code(), kInvalid);
  EXPECT_EQ(driver->read_config(kMax, std::span(out).first(2)).code(),
            kInvalid);
  EXPECT_EQ(driver->write_config(60, bytes(1, 1)).code(), kInvalid);
  EXPECT_EQ(driver->write_config(kMax - 1, bytes(1, 4)).code(), kInvalid);
  EXPECT_TRUE(driver->read_config(0, std::span(out).first(60)).ok());
  EXPECT_TRUE(driver->read_config(60, {}).ok());
}

TEST_F(DriverConfigTest, IsNotThereBeforeAReset) {
  make();
  std::array<std::byte, 1> out{};
  EXPECT_EQ(driver->read_config(0, out).code(),
            absl::StatusCode::kFailedPrecondition);
}

// VD-30
TEST_F(DriverConfigTest, AReadThatAChangeCameBetweenIsMadeAgain) {
  make_running();
  // Empties the cache: the next read asks the back-end.
  ops->change_config(0, bytes(1, 8));
  loop.run_ready();
  ops->completes = testing::Completes::kOnRequest;
  std::array<std::byte, 8> out{};
  absl::Status done = absl::UnknownError("");
  driver->read_config(0, out,
                      [&](absl::Status status) { done = std::move(status); });
  loop.run_ready();
  ASSERT_EQ(ops->under_way(), 1u);
  const uint32_t before = driver->config_generation();
  ops->change_config(0, bytes(2, 8));
  while (ops->complete_next()) loop.run_ready();
  loop.run_ready();
  EXPECT_NE(driver->config_generation(), before);
  ASSERT_TRUE(done.ok()) << done;
  for (const std::byte byte : out) EXPECT_EQ(byte, std::byte{2});
}

TEST_F(DriverConfigTest, TellsOfChanges) {
  make_running();
  const uint32_t before = driver->config_generation();
  ops->change_config(0, bytes(9, 1));
  loop.run_ready();
  EXPECT_NE(driver->config_generation(), before);
  EXPECT_EQ(events.config_changes, 1);
}

}  // namespace
}  // namespace vhost
