// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_GLIB_EVENT_LOOP_H_
#define VHOSTDEV_GLIB_EVENT_LOOP_H_

#include <memory>

#include "vhostdev/event_loop.h"

// GLib's own forward declaration, so that this header needs no GLib.
typedef struct _GMainContext GMainContext;  // NOLINT(modernize-use-using)

namespace vhost {

// An EventLoop over `context` (null: the default context), which is referenced
// until the loop is destroyed.  The thread that calls this becomes the loop's
// thread: it must be the one that iterates `context`.  Null when the library
// was built without GLib (VHOSTDEV_GLIB=OFF).
std::unique_ptr<EventLoop> make_glib_event_loop(GMainContext* context);

}  // namespace vhost

#endif  // VHOSTDEV_GLIB_EVENT_LOOP_H_
