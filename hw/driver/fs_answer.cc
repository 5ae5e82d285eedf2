// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "hw/driver/fs_message.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

template <typename T>
T load(std::span<const std::byte> bytes) {
  T out;
  std::memcpy(&out, bytes.data(), sizeof(out));
  return out;
}

absl::Status nonsense(const FsPending& pending, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat(to_string(pending.op), ": device answered with ", what));
}

// The file system's own refusals are told from a lost back-end by their code.
absl::Status error_status(const FsPending& pending, int error) {
  const absl::Status known =
      absl::ErrnoToStatus(error, absl::StrCat(to_string(pending.op), ": error ",
                                              error, " of the file system"));
  const absl::string_view text = known.message();
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSYS:
    case EOPNOTSUPP:
      return absl::UnimplementedError(text);
    default:
      return absl::AbortedError(text);
  }
}

absl::Status take_attributes(const FsPending& pending, const fuse_attr& attr,
                             FsAttributes& out) {
  constexpr std::array<uint32_t, 7> kTypes = {
      S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
  const uint32_t type = attr.mode & S_IFMT;
  if (std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end()) {
    return nonsense(pending, absl::StrCat("mode ", attr.mode,
                                          ", which is no kind of file"));
  }
  if (attr.size > kFuseMostOffset) {
    return nonsense(pending, absl::StrCat("a file of ", attr.size, " bytes"));
  }
  out = FsAttributes{.inode = attr.ino,
                     .size = attr.size,
                     .blocks = attr.blocks,
                     .mtime = attr.mtime,
                     .mtime_ns = attr.mtimensec,
                     .mode = attr.mode,
                     .links = attr.nlink,
                     .uid = attr.uid,
                     .gid = attr.gid};
  return absl::OkStatus();
}

absl::Status take_node(const FsPending& pending, const fuse_entry_out& entry,
                       FsNode& out) {
  // Some file systems say "no such file" this way, to have it remembered.
  if (entry.nodeid == 0) {
    return absl::NotFoundError(
        absl::StrCat(to_string(pending.op), ": no such file (node 0)"));
  }
  if (entry.nodeid == kFsRootNode) {
    return nonsense(pending, "the root node");
  }
  VHOST_RETURN_IF_ERROR(take_attributes(pending, entry.attr, out.attributes));
  out.id = entry.nodeid;
  out.generation = entry.generation;
  return absl::OkStatus();
}

// An old device's answer to FUSE_INIT is shorter, but says that it is old.
absl::Status check_version(const FsPending& pending,
                           std::span<const std::byte> body, uint32_t size) {
  struct Version {
    uint32_t major;
    uint32_t minor;
  };
  if (size < sizeof(Version)) return absl::OkStatus();
  const auto version = load<Version>(body);
  if (version.major == kFuseMajor && version.minor >= kFuseOldestMinor) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(
      to_string(pending.op), ": device speaks FUSE ", version.major, ".",
      version.minor, ", not 7.", kFuseOldestMinor, " or a later 7"));
}

FsSession session_of(const fuse_init_out& init) {
  const uint32_t flags = init.flags & kFuseWantedFlags;
  // 0 pages is a device that accepted the flag and left the field out.
  const bool paged = (flags & FUSE_MAX_PAGES) != 0 && init.max_pages != 0;
  const uint32_t pages =
      paged ? std::min<uint32_t>(init.max_pages, kFuseMostPages)
            : kFuseDefaultPages;
  return FsSession{
      .major = init.major,
      .minor = std::min(init.minor, kFuseMinor),
      .flags = flags,
      .max_read = pages * kFusePage,
      .max_write = std::max(init.max_write, kFuseLeastWrite),
      .max_readahead = std::min(init.max_readahead, kFuseWantedReadahead),
      .max_background = init.max_background,
      .time_granularity = init.time_gran};
}

// The fields of a sound answer; `body` has what its operation has.
absl::Status take_body(const FsPending& pending,
                       std::span<const std::byte> body, FsCompletion& out,
                       FsSession& session) {
  switch (pending.op) {
    case FsOp::kInit:
      session = session_of(load<fuse_init_out>(body));
      return absl::OkStatus();
    case FsOp::kLookup:
      return take_node(pending, load<fuse_entry_out>(body), out.node);
    case FsOp::kGetAttributes:
      return take_attributes(pending, load<fuse_attr_out>(body).attr,
                             out.node.attributes);
    case FsOp::kOpen:
      out.handle = load<fuse_open_out>(body).fh;
      return absl::OkStatus();
    case FsOp::kRead:
    case FsOp::kRelease:
    case FsOp::kForget:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

// What every answer begins with; the bytes behind it.
// Errors: kDataLoss, or the file system's.
absl::StatusOr<uint32_t> check_header(const FsPending& pending,
                                      const fuse_out_header& header,
                                      uint32_t written) {
  if (header.unique != pending.unique) {
    return nonsense(pending, absl::StrCat("number ", header.unique,
                                          " to request ", pending.unique));
  }
  if (header.len < sizeof(header) || header.len > written) {
    return nonsense(pending, absl::StrCat("a length of ", header.len, " of ",
                                          written, " bytes written"));
  }
  const auto body = static_cast<uint32_t>(header.len - sizeof(header));
  if (header.error == 0) return body;
  if (header.error > 0 || header.error < -kFuseLastError) {
    return nonsense(pending,
                    absl::StrCat("error ", header.error, ", which is none"));
  }
  if (body != 0) {
    return nonsense(
        pending, absl::StrCat("error ", header.error, " and ", body, " bytes"));
  }
  return error_status(pending, -header.error);
}

absl::Status decode(const FsPending& pending, std::span<const std::byte> answer,
                    uint32_t written, FsCompletion& out, FsSession& session) {
  if (pending.op == FsOp::kForget) return absl::OkStatus();
  if (written < sizeof(fuse_out_header)) {
    return nonsense(pending, absl::StrCat(written, " bytes"));
  }
  const absl::StatusOr<uint32_t> size =
      check_header(pending, load<fuse_out_header>(answer), written);
  if (!size.ok()) return size.status();
  const std::span<const std::byte> body =
      answer.subspan(sizeof(fuse_out_header));
  if (pending.op == FsOp::kInit) {
    VHOST_RETURN_IF_ERROR(check_version(pending, body, *size));
  }
  const bool fits = pending.op == FsOp::kRead ? *size <= pending.data_size
                                              : *size == body.size();
  if (!fits) {
    return nonsense(pending, absl::StrCat(*size, " bytes"));
  }
  if (pending.op == FsOp::kRead) out.bytes = *size;
  return take_body(pending, body, out, session);
}

}  // namespace

uint32_t fs_answer_size(FsOp op) {
  constexpr uint32_t kHeader = sizeof(fuse_out_header);
  switch (op) {
    case FsOp::kInit:
      return kHeader + uint32_t{sizeof(fuse_init_out)};
    case FsOp::kLookup:
      return kHeader + uint32_t{sizeof(fuse_entry_out)};
    case FsOp::kGetAttributes:
      return kHeader + uint32_t{sizeof(fuse_attr_out)};
    case FsOp::kOpen:
      return kHeader + uint32_t{sizeof(fuse_open_out)};
    case FsOp::kRead:
    case FsOp::kRelease:
      return kHeader;
    case FsOp::kForget:
      return 0;
  }
  return 0;
}

void decode_fs_answer(const FsPending& pending,
                      std::span<const std::byte> answer, uint32_t written,
                      FsCompletion& out, FsSession& session) {
  out = FsCompletion{
      .cookie = out.cookie, .status = {}, .node = {}, .handle = 0, .bytes = 0};
  out.status = decode(pending, answer, written, out, session);
}

}  // namespace vhost
