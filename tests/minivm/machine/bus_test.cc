// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/bus.h"

#include <gtest/gtest.h>

#include <array>

#include "tools/minivm/machine/serial.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::minivm {
namespace {

class Nothing final : public BusDevice {
 public:
  void read(uint64_t, std::span<std::byte>) override {}
  bool write(uint64_t, std::span<const std::byte>,
             EventLoop::Callback) override {
    return false;
  }
};

TEST(Bus, FindsWhoHasAllOfAnAccess) {
  Bus bus;
  Nothing low, high;
  ASSERT_EQ(bus.add(0x1000, 0x100, low), absl::OkStatus());
  ASSERT_EQ(bus.add(0x1100, 0x100, high), absl::OkStatus());
  EXPECT_EQ(bus.find(0x1000, 4).device, &low);
  EXPECT_EQ(bus.find(0x10fc, 4).device, &low);
  EXPECT_EQ(bus.find(0x10fc, 4).offset, 0xfcu);
  EXPECT_EQ(bus.find(0x10fd, 4).device, nullptr) << "two devices";
  EXPECT_EQ(bus.find(0x1100, 8).device, &high);
  EXPECT_EQ(bus.find(0x1200, 1).device, nullptr);
  EXPECT_EQ(bus.find(0xfff, 1).device, nullptr);
}

TEST(Bus, RefusesWhatOverlaps) {
  Bus bus;
  Nothing device;
  ASSERT_EQ(bus.add(0x1000, 0x100, device), absl::OkStatus());
  const auto refused = [&](uint64_t base, uint64_t size) {
    return bus.add(base, size, device).code() ==
           absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(0xf01, 0x100));
  EXPECT_TRUE(refused(0x10ff, 1));
  EXPECT_TRUE(refused(0x1000, 1));
  EXPECT_TRUE(refused(0, UINT64_MAX));
  EXPECT_TRUE(refused(0x2000, 0));
  EXPECT_TRUE(refused(UINT64_MAX, 2));
}

TEST(Serial, HandsOverWhatIsWrittenOnTheLoop) {
  testing::ManualEventLoop loop;
  std::string text;
  Serial serial(loop, [&text](absl::string_view piece) {
    text.append(piece.data(), piece.size());
  });
  for (const char letter : std::string("two\n")) {
    const auto byte = static_cast<std::byte>(letter);
    EXPECT_FALSE(serial.write(0, std::span(&byte, 1), nullptr));
  }
  EXPECT_EQ(text, "");
  loop.run_ready();
  EXPECT_EQ(text, "two\n");
}

TEST(Serial, IsAlwaysReadyAndTakesDivisorsForNothingElse) {
  testing::ManualEventLoop loop;
  bool written = false;
  Serial serial(loop, [&written](absl::string_view) { written = true; });
  std::array<std::byte, 1> status;
  serial.read(5, status);
  EXPECT_EQ(status[0], std::byte{0x60});
  constexpr std::byte kDivisorAccess{0x80};
  EXPECT_FALSE(serial.write(3, std::span(&kDivisorAccess, 1), nullptr));
  EXPECT_FALSE(serial.write(0, std::span(&kDivisorAccess, 1), nullptr));
  loop.run_ready();
  EXPECT_FALSE(written);
}

}  // namespace
}  // namespace vhost::minivm
