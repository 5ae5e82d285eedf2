// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/glib_event_loop.h"

namespace vhost {

std::unique_ptr<EventLoop> make_glib_event_loop(GMainContext*) {
  return nullptr;
}

}  // namespace vhost
