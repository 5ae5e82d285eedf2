// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_SANITIZER_H_
#define TESTS_FAKES_SANITIZER_H_

namespace vhost::testing {

// Whether this is compiled for a sanitizer, which makes it many times slower.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitizer = true;
#else
inline constexpr bool kSanitizer = false;
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitizer = true;
#else
inline constexpr bool kSanitizer = false;
#endif

}  // namespace vhost::testing

#endif  // TESTS_FAKES_SANITIZER_H_
