// SPDX-License-Identifier: Apache-2.0
//
// The file system's requests.  What the guest sent is copied once, then looked
// at; every length is checked against what was copied.

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "vhostdev/testing/model_fs.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kUrgentQueue = 0;
constexpr uint32_t kMajor = 7;
// Before 7.23 the answer to FUSE_INIT has only its first fields.
constexpr uint32_t kLongInitMinor = 23;
constexpr size_t kShortInit = 24;
constexpr uint32_t kPageSize = 4096;
constexpr uint32_t kBlockSize = 512;

// The longest request: a batch of 255 FORGETs.
constexpr size_t kMostArguments = 4096;
// The longest read.
constexpr uint32_t kMostData = 1 << 20;

// The T that `bytes` begin with; nothing if they are fewer.
template <typename T>
std::optional<T> parse(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(T)) return std::nullopt;
  T out;
  std::memcpy(&out, bytes.data(), sizeof(out));
  return out;
}

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

fuse_attr attributes_of(uint64_t id, bool folder, uint64_t size) {
  fuse_attr out = {};
  out.ino = id;
  out.size = size;
  out.blocks = (size + kBlockSize - 1) / kBlockSize;
  out.mode = folder ? S_IFDIR | 0555u : S_IFREG | 0444u;
  out.nlink = folder ? 2 : 1;
  out.blksize = kPageSize;
  return out;
}

}  // namespace

struct ModelFs::Call {
  uint32_t queue = 0;
  fuse_in_header header = {};
  std::vector<std::byte> arguments;
  uint64_t room = 0;  // Bytes the answer may have, its header included.
};

absl::StatusOr<uint32_t> ModelFs::handle(const ModelRequest& request) {
  Call call;
  call.queue = request.queue;
  const uint64_t size = total_size(request.readable);
  const auto header = std::as_writable_bytes(std::span(&call.header, 1));
  if (copy_from(request.readable, header) != header.size()) {
    return absl::InvalidArgumentError("a request without a header");
  }
  if (call.header.len != size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a request of ", size, " bytes that says ", call.header.len));
  }
  call.arguments.resize(std::min(size - header.size(), kMostArguments));
  copy_from(slice(request.readable, header.size(), call.arguments.size()),
            call.arguments);
  call.room = total_size(request.writable);

  absl::MutexLock lock(&mutex_);
  if (call.queue == kUrgentQueue) {
    const absl::Status done = handle_urgent(call);
    if (!done.ok()) return done;
    return 0;
  }
  if (call.header.opcode == FUSE_FORGET ||
      call.header.opcode == FUSE_BATCH_FORGET) {
    return absl::InvalidArgumentError("FORGET on a request queue");
  }
  if (call.room < sizeof(fuse_out_header)) {
    return absl::InvalidArgumentError("a request without room for an answer");
  }
  std::vector<std::byte> answer;
  run(call, answer);
  copy_to(request.writable, answer);
  return static_cast<uint32_t>(answer.size());
}

absl::Status ModelFs::handle_urgent(const Call& call) {
  switch (call.header.opcode) {
    case FUSE_FORGET: {
      const auto one = parse<fuse_forget_in>(call.arguments);
      if (!one) return absl::InvalidArgumentError("FORGET is cut off");
      forget(call.header.nodeid, one->nlookup);
      return absl::OkStatus();
    }
    case FUSE_BATCH_FORGET: {
      const auto batch = parse<fuse_batch_forget_in>(call.arguments);
      if (!batch) return absl::InvalidArgumentError("FORGET is cut off");
      auto rest = std::span(call.arguments).subspan(sizeof(*batch));
      if (rest.size() / sizeof(fuse_forget_one) < batch->count) {
        return absl::InvalidArgumentError("FORGET is cut off");
      }
      for (uint32_t i = 0; i < batch->count; ++i) {
        const auto one = parse<fuse_forget_one>(rest);
        forget(one->nodeid, one->nlookup);
        rest = rest.subspan(sizeof(*one));
      }
      return absl::OkStatus();
    }
    case FUSE_INTERRUPT:
      return absl::OkStatus();  // Nothing here takes long.
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "operation ", call.header.opcode, " on queue ", kUrgentQueue));
  }
}

void ModelFs::run(const Call& call, std::vector<std::byte>& answer) {
  std::vector<std::byte> body;
  int error = dispatch(call, body);
  if (error == 0 && body.size() > call.room - sizeof(fuse_out_header)) {
    error = EINVAL;
  }
  if (error != 0) body.clear();
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + body.size());
  header.error = -error;
  header.unique = call.header.unique;
  append(answer, header);
  answer.insert(answer.end(), body.begin(), body.end());
}

int ModelFs::dispatch(const Call& call, std::vector<std::byte>& body) {
  if (!initialized_ && call.header.opcode != FUSE_INIT) return EIO;
  switch (call.header.opcode) {
    case FUSE_INIT:
      return init(call, body);
    case FUSE_LOOKUP:
      return lookup(call, body);
    case FUSE_GETATTR:
      return get_attributes(call, body);
    case FUSE_OPEN:
      return open(call, body);
    case FUSE_READ:
      return read(call, body);
    case FUSE_RELEASE:
      return release(call);
    default:
      return ENOSYS;
  }
}

int ModelFs::init(const Call& call, std::vector<std::byte>& body) {
  // The oldest form; later fields count only if they are there.
  struct Oldest {
    uint32_t major;
    uint32_t minor;
    uint32_t max_readahead;
    uint32_t flags;
  };
  const auto in = parse<Oldest>(call.arguments);
  if (!in || in->major < kMajor) return EPROTO;
  fuse_init_out out = {};
  out.major = kMajor;
  out.minor = options_.minor;
  out.max_readahead = in->max_readahead;
  out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_MAX_PAGES);
  out.max_background = 64;
  out.congestion_threshold = 48;
  out.max_write = options_.max_write;
  out.time_gran = 1;
  if ((out.flags & FUSE_MAX_PAGES) != 0) out.max_pages = options_.max_pages;
  append(body, out);
  if (out.minor < kLongInitMinor) body.resize(kShortInit);
  for (Node& node : nodes_) node.lookups = 0;
  open_.clear();
  initialized_ = true;
  return 0;
}

int ModelFs::lookup(const Call& call, std::vector<std::byte>& body) {
  const Node* const folder = find(call.header.nodeid);
  if (folder == nullptr) return ENOENT;
  if (!folder->folder) return ENOTDIR;
  const std::string_view text(
      reinterpret_cast<const char*>(call.arguments.data()),
      call.arguments.size());
  const size_t end = text.find('\0');
  if (end == text.npos || end + 1 != text.size()) return EINVAL;
  const auto found = folder->children.find(text.substr(0, end));
  if (found == folder->children.end()) return ENOENT;
  Node& node = nodes_[found->second - 1];
  fuse_entry_out out = {};
  out.nodeid = found->second;
  out.attr = attributes_of(out.nodeid, node.folder, node.contents.size());
  // Without room for the answer there is no lookup.
  if (call.room < sizeof(fuse_out_header) + sizeof(out)) return EINVAL;
  ++node.lookups;
  append(body, out);
  return 0;
}

int ModelFs::get_attributes(const Call& call, std::vector<std::byte>& body) {
  const Node* const node = find(call.header.nodeid);
  if (node == nullptr) return ENOENT;
  fuse_attr_out out = {};
  out.attr =
      attributes_of(call.header.nodeid, node->folder, node->contents.size());
  append(body, out);
  return 0;
}

int ModelFs::open(const Call& call, std::vector<std::byte>& body) {
  const auto in = parse<fuse_open_in>(call.arguments);
  const Node* const node = find(call.header.nodeid);
  if (!in) return EINVAL;
  if (node == nullptr) return ENOENT;
  if (node->folder) return EISDIR;
  if ((in->flags & O_ACCMODE) != O_RDONLY) return EROFS;
  fuse_open_out out = {};
  if (call.room < sizeof(fuse_out_header) + sizeof(out)) return EINVAL;
  if (open_.size() >= kMaxOpen) return ENFILE;
  out.fh = next_handle_++;
  open_[out.fh] = call.header.nodeid;
  append(body, out);
  return 0;
}

int ModelFs::read(const Call& call, std::vector<std::byte>& body) {
  const auto in = parse<fuse_read_in>(call.arguments);
  if (!in || in->size > kMostData ||
      in->size > call.room - sizeof(fuse_out_header)) {
    return EINVAL;
  }
  const auto open = open_.find(in->fh);
  if (open == open_.end() || open->second != call.header.nodeid) return EBADF;
  const std::string& contents = nodes_[open->second - 1].contents;
  if (in->offset >= contents.size()) return 0;
  const auto data = std::as_bytes(std::span(contents)).subspan(in->offset);
  const auto piece = data.first(std::min<size_t>(data.size(), in->size));
  body.assign(piece.begin(), piece.end());
  return 0;
}

int ModelFs::release(const Call& call) {
  const auto in = parse<fuse_release_in>(call.arguments);
  if (!in) return EINVAL;
  const auto open = open_.find(in->fh);
  if (open == open_.end() || open->second != call.header.nodeid) return EBADF;
  open_.erase(open);
  return 0;
}

}  // namespace vhost::testing
