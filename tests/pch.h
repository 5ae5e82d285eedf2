// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTS_PCH_H_
#define VHOSTDEV_TESTS_PCH_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#endif  // VHOSTDEV_TESTS_PCH_H_
