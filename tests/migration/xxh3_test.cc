// SPDX-License-Identifier: Apache-2.0
#include "migration/xxh3.h"

#include <gtest/gtest.h>

#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

TEST(Xxh3, IsTheSameWhateverTheProcessorCanDo) {
  Bytes bytes(5000);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(i * i >> 3);
  }
  const std::span<const std::byte> all(bytes);
  for (size_t size = 0; size < all.size(); size += 1 + size / 9) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{77}}) {
      // Wherever it begins.
      const auto part = all.subspan(size % 13, size - size % 13);
      EXPECT_EQ(xxh3(part, seed), xxh3_portable(part, seed)) << size;
    }
  }
}

// Of the definition of XXH3, with its default secret.
TEST(Xxh3, OfNothingIsAsDefined) { EXPECT_EQ(xxh3({}), 0x2d06800538d394c2u); }

}  // namespace
}  // namespace vhost
