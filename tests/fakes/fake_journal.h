// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_FAKE_JOURNAL_H_
#define TESTS_FAKES_FAKE_JOURNAL_H_

#include <string>
#include <vector>

#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// `verb` in the words of FakeVhostOps' journal: at least one line.
std::vector<std::string> journal_lines(const Verb& verb);

}  // namespace vhost::testing

#endif  // TESTS_FAKES_FAKE_JOURNAL_H_
