// SPDX-License-Identifier: Apache-2.0

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/fs_connection.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/progress.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

struct FlagName {
  uint32_t flag;
  const char* name;
};
// Those that FsClient asks for.  Source: <linux/fuse.h>, "INIT request/reply
// flags".
constexpr std::array<FlagName, 2> kFlagNames = {
    {{1u << 0, "ASYNC_READ"}, {1u << 22, "MAX_PAGES"}}};

std::vector<std::string> flag_names(uint32_t flags) {
  std::vector<std::string> out;
  for (const FlagName& known : kFlagNames) {
    if ((flags & known.flag) != 0) out.emplace_back(known.name);
  }
  return out;
}

Json document_of(FsConnection& connection) {
  const FsSession& session = connection.client().session();
  Json out = Json::object();
  out["version"] = absl::StrCat(session.major, ".", session.minor);
  out["flags"] = flag_names(session.flags);
  out["max_read"] = session.max_read;
  out["max_write"] = session.max_write;
  out["max_readahead"] = session.max_readahead;
  out["max_background"] = session.max_background;
  out["time_granularity_ns"] = session.time_granularity;
  out["features"] =
      feature_names(kDeviceIdFs, connection.driver().negotiated().features);
  return out;
}

std::string text_of(FsConnection& connection) {
  const FsSession& session = connection.client().session();
  return absl::StrCat(
      "negotiated:     FUSE ", session.major, ".", session.minor, " ",
      absl::StrJoin(flag_names(session.flags), " "), "\n",
      "max read:       ", human_bytes(session.max_read), "\n",
      "max write:      ", human_bytes(session.max_write), "\n",
      "max readahead:  ", human_bytes(session.max_readahead), "\n",
      "max background: ", session.max_background, " requests\n",
      "features:       ",
      absl::StrJoin(
          feature_names(kDeviceIdFs, connection.driver().negotiated().features),
          " "),
      "\n");
}

// Copies an open file to `output`; the bytes.
absl::StatusOr<uint64_t> copy_open(FsConnection& connection, const FsNode& node,
                                   uint64_t handle, FdRef output) {
  FsClient& client = connection.client();
  absl::StatusOr<DmaBuffer> data =
      connection.memory().allocate(client.session().max_read);
  if (!data.ok()) return data.status();
  Progress progress("read", node.attributes.size);
  uint64_t copied = 0;
  while (true) {
    const absl::StatusOr<uint32_t> got =
        client.read(node.id, handle, copied, data->span());
    if (!got.ok()) {
      // The device may still write there.
      data->abandon();
      return got.status();
    }
    VHOST_RETURN_IF_ERROR(write_full(output, std::span(data->data(), *got)));
    copied += *got;
    progress.update(copied);
    if (*got < data->size()) return copied;
  }
}

// Everything of a copy but opening and closing the connection.
absl::StatusOr<uint64_t> copy_file(FsConnection& connection,
                                   const Options& options) {
  FsClient& client = connection.client();
  const absl::StatusOr<FsNode> node = client.lookup(options.file);
  if (!node.ok()) return node.status();
  const absl::StatusOr<uint64_t> handle = client.open(node->id);
  if (!handle.ok()) return annotate(handle.status(), options.file);
  const absl::StatusOr<UniqueFd> output = open_output(options.output);
  if (!output.ok()) return output.status();
  absl::StatusOr<uint64_t> copied =
      copy_open(connection, *node, *handle, *output);
  if (!copied.ok()) return annotate(copied.status(), options.file);
  VHOST_RETURN_IF_ERROR(client.release(node->id, *handle));
  VHOST_RETURN_IF_ERROR(client.forget(node->id));
  return copied;
}

}  // namespace

absl::Status run_fs_init(const Options& options) {
  absl::StatusOr<std::unique_ptr<FsConnection>> connection =
      FsConnection::open(options);
  if (!connection.ok()) return connection.status();
  const Json document = document_of(**connection);
  const std::string text = text_of(**connection);
  VHOST_RETURN_IF_ERROR((*connection)->close(absl::OkStatus()));
  return options.json ? print_json(document) : print_text(text);
}

absl::Status run_fs_cat(const Options& options) {
  absl::StatusOr<std::unique_ptr<FsConnection>> connection =
      FsConnection::open(options);
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<uint64_t> bytes = copy_file(**connection, options);
  VHOST_RETURN_IF_ERROR((*connection)->close(bytes.status()));
  if (!options.json) return absl::OkStatus();
  Json document = Json::object();
  document["bytes"] = *bytes;
  return print_json(document);
}

}  // namespace vhost::ctl
