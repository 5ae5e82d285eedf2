// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "hw/driver/fs_message.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

template <typename T>
uint32_t append(std::span<std::byte> out, uint32_t at, const T& value) {
  std::memcpy(out.data() + at, &value, sizeof(value));
  return at + static_cast<uint32_t>(sizeof(value));
}

absl::Status invalid(const FsRequest& request, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat(to_string(request.op), ": ", why));
}

absl::Status check_name(const FsRequest& request) {
  const absl::string_view name = request.name;
  if (name.empty() || name.size() > kFsMaxName) {
    return invalid(request,
                   absl::StrCat("a name of ", name.size(),
                                " bytes: between 1 and ", kFsMaxName, " work"));
  }
  const bool special = name == "." || name == "..";
  if (special || name.find('/') != name.npos || name.find('\0') != name.npos) {
    return invalid(request, "not the name of a file");
  }
  return absl::OkStatus();
}

absl::Status check_read(const FsSession& session, const FsRequest& request) {
  for (const DmaSpan& buffer : request.buffers) {
    if (buffer.size == 0) return invalid(request, "a buffer of 0 bytes");
  }
  const uint64_t size = data_size(request);
  if (size == 0 || size > session.max_read) {
    return invalid(request, absl::StrCat(size, " bytes: between 1 and ",
                                         session.max_read, " work"));
  }
  if (request.offset > kFuseMostOffset - size) {
    return invalid(request, absl::StrCat("offset ", request.offset,
                                         ": past the end of any file"));
  }
  return absl::OkStatus();
}

fuse_opcode opcode_of(FsOp op) {
  switch (op) {
    case FsOp::kInit:
      return FUSE_INIT;
    case FsOp::kLookup:
      return FUSE_LOOKUP;
    case FsOp::kGetAttributes:
      return FUSE_GETATTR;
    case FsOp::kOpen:
      return FUSE_OPEN;
    case FsOp::kRead:
      return FUSE_READ;
    case FsOp::kRelease:
      return FUSE_RELEASE;
    case FsOp::kForget:
      return FUSE_FORGET;
  }
  return FUSE_INIT;
}

uint32_t append_arguments(const FsRequest& request, std::span<std::byte> out,
                          uint32_t at) {
  switch (request.op) {
    case FsOp::kInit: {
      fuse_init_in init = {};
      init.major = kFuseMajor;
      init.minor = kFuseMinor;
      init.max_readahead = kFuseWantedReadahead;
      init.flags = kFuseWantedFlags;
      return append(out, at, init);
    }
    case FsOp::kLookup:
      std::memcpy(out.data() + at, request.name.data(), request.name.size());
      at += static_cast<uint32_t>(request.name.size());
      return append(out, at, '\0');
    case FsOp::kGetAttributes:
      return append(out, at, fuse_getattr_in{});
    case FsOp::kOpen: {
      fuse_open_in open = {};
      open.flags = O_RDONLY;
      return append(out, at, open);
    }
    case FsOp::kRead: {
      fuse_read_in read = {};
      read.fh = request.handle;
      read.offset = request.offset;
      read.size = static_cast<uint32_t>(data_size(request));
      read.flags = O_RDONLY;
      return append(out, at, read);
    }
    case FsOp::kRelease: {
      fuse_release_in release = {};
      release.fh = request.handle;
      release.flags = O_RDONLY;
      return append(out, at, release);
    }
    case FsOp::kForget:
      return append(out, at, fuse_forget_in{request.lookups});
  }
  return at;
}

}  // namespace

absl::string_view to_string(FsOp op) {
  switch (op) {
    case FsOp::kInit:
      return "init";
    case FsOp::kLookup:
      return "lookup";
    case FsOp::kGetAttributes:
      return "get-attributes";
    case FsOp::kOpen:
      return "open";
    case FsOp::kRead:
      return "read";
    case FsOp::kRelease:
      return "release";
    case FsOp::kForget:
      return "forget";
  }
  return "unknown operation";
}

uint64_t data_size(const FsRequest& request) {
  uint64_t size = 0;
  for (const DmaSpan& buffer : request.buffers) {
    // No sum of what is refused for its size wraps around.
    size += std::min<uint64_t>(buffer.size, uint64_t{1} << 32);
  }
  return size;
}

absl::Status check_fs_request(const FsSession& session,
                              const FsRequest& request) {
  if (request.node == 0) return invalid(request, "node 0");
  if (request.op == FsOp::kRead) return check_read(session, request);
  if (!request.buffers.empty()) return invalid(request, "buffers given");
  switch (request.op) {
    case FsOp::kLookup:
      return check_name(request);
    case FsOp::kForget:
      return request.node != kFsRootNode && request.lookups != 0
                 ? absl::OkStatus()
                 : invalid(request, "the root, or no lookup");
    case FsOp::kInit:
      return invalid(request, "only once, by create()");
    case FsOp::kGetAttributes:
    case FsOp::kOpen:
    case FsOp::kRead:
    case FsOp::kRelease:
      return absl::OkStatus();
  }
  return invalid(request, "unknown operation");
}

uint32_t encode_fs_request(const FsRequest& request, const FsCaller& caller,
                           uint64_t unique, std::span<std::byte> out) {
  const uint32_t size =
      append_arguments(request, out, uint32_t{sizeof(fuse_in_header)});
  fuse_in_header header = {};
  header.len = size;
  header.opcode = opcode_of(request.op);
  header.unique = unique;
  header.nodeid = request.op == FsOp::kInit ? 0 : request.node;
  header.uid = caller.uid;
  header.gid = caller.gid;
  header.pid = caller.pid;
  append(out, 0, header);
  return size;
}

}  // namespace vhost
