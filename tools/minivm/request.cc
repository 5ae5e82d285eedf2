// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/request.h"

#include <array>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tools/minivm/channel.h"
#include "vhostdev/status.h"
#include "vhostdev/vring.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

// What a request of a verb has besides "command".
enum class Fields : uint8_t { kNone, kDevices, kSize, kId, kQueue, kMove };

struct VerbSpec {
  Verb verb;
  const char* name;
  Fields fields;
};
constexpr std::array<VerbSpec, 13> kVerbs = {{
    {Verb::kStatus, "status", Fields::kNone},
    {Verb::kPause, "pause", Fields::kDevices},
    {Verb::kResume, "resume", Fields::kNone},
    {Verb::kAddMemory, "add-memory", Fields::kSize},
    {Verb::kRemoveMemory, "remove-memory", Fields::kId},
    {Verb::kMask, "mask", Fields::kQueue},
    {Verb::kUnmask, "unmask", Fields::kQueue},
    {Verb::kStats, "stats", Fields::kNone},
    {Verb::kQuit, "quit", Fields::kNone},
    {Verb::kMigrate, "migrate", Fields::kMove},
    {Verb::kSave, "save", Fields::kMove},
    {Verb::kCancel, "cancel", Fields::kNone},
    {Verb::kTakeOver, "take-over", Fields::kNone},
}};

const VerbSpec& spec_of(Verb verb) { return kVerbs[static_cast<size_t>(verb)]; }
static_assert([] {
  for (size_t i = 0; i < kVerbs.size(); ++i) {
    if (kVerbs[i].verb != static_cast<Verb>(i)) return false;
  }
  return true;
}());

// Reads the fields of one object and notices those that nobody asked for.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  absl::Status text(const char* name, std::string& out) {
    const Json* const value = find(name);
    if (value == nullptr || !value->is_string()) return wanted(name, "a text");
    out = *value->get_ptr<const std::string*>();
    return absl::OkStatus();
  }

  absl::Status number(const char* name, uint64_t max, uint64_t& out) {
    const Json* const value = find(name);
    const auto* const got =
        value == nullptr ? nullptr : value->get_ptr<const uint64_t*>();
    if (got == nullptr || *got > max) {
      return wanted(name, absl::StrCat("a number up to ", max));
    }
    out = *got;
    return absl::OkStatus();
  }

  // As it was if it is not there.
  absl::Status optional_number(const char* name, uint64_t max, uint64_t& out) {
    return object_.contains(name) ? number(name, max, out) : absl::OkStatus();
  }

  // False if it is not there.
  absl::Status flag(const char* name, bool& out) {
    const Json* const value = find(name);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_boolean()) return wanted(name, "true or false");
    out = *value->get_ptr<const bool*>();
    return absl::OkStatus();
  }

  absl::Status nothing_else() const {
    if (object_.size() == known_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("request: ", object_.size() - known_,
                     " fields that the command does not have"));
  }

 private:
  const Json* find(const char* name) {
    const auto found = object_.find(name);
    if (found == object_.end()) return nullptr;
    ++known_;
    return &*found;
  }

  static absl::Status wanted(const char* name, absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("request: \"", name, "\" is not ", what));
  }

  const Json& object_;
  size_t known_ = 0;
};

absl::Status check_target(const Request& request) {
  if (request.verb == Verb::kMigrate) {
    return annotate(parse_channel(request.to).status(), "request: \"to\"");
  }
  // A zero byte would end it for the system, not for us.
  if (request.to.empty() || request.to[0] != '/' ||
      request.to.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        "request: \"to\" is not an absolute path");
  }
  return absl::OkStatus();
}

absl::Status read_move(Reader& reader, Request& out) {
  constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();
  VHOST_RETURN_IF_ERROR(reader.text("to", out.to));
  VHOST_RETURN_IF_ERROR(check_target(out));
  VHOST_RETURN_IF_ERROR(
      reader.optional_number("bandwidth", kAny, out.bandwidth));
  VHOST_RETURN_IF_ERROR(
      reader.optional_number("downtime_ms", kMostDowntimeMs, out.downtime_ms));
  VHOST_RETURN_IF_ERROR(reader.flag("no_drain", out.no_drain));
  return reader.flag("compare", out.compare);
}

absl::Status read_fields(Reader& reader, Request& out) {
  constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();
  uint64_t queue = 0;
  switch (spec_of(out.verb).fields) {
    case Fields::kNone:
      return absl::OkStatus();
    case Fields::kDevices:
      VHOST_RETURN_IF_ERROR(reader.flag("devices", out.devices));
      return reader.flag("no_drain", out.no_drain);
    case Fields::kSize:
      return reader.number("size", kAny, out.size);
    case Fields::kId:
      return reader.number("id", kAny, out.id);
    case Fields::kQueue:
      VHOST_RETURN_IF_ERROR(reader.text("device", out.device));
      VHOST_RETURN_IF_ERROR(reader.number("queue", kMaxQueues - 1, queue));
      out.queue = static_cast<uint32_t>(queue);
      return absl::OkStatus();
    case Fields::kMove:
      return read_move(reader, out);
  }
  return absl::InternalError("a verb without fields");
}

// A line of JSON.  What is no UTF-8 in it is replaced, for nothing may throw.
std::string dump(const Json& document) {
  return absl::StrCat(document.dump(-1, ' ', /*ensure_ascii=*/true,
                                    Json::error_handler_t::replace),
                      "\n");
}

}  // namespace

absl::string_view to_string(Verb verb) { return spec_of(verb).name; }

absl::StatusOr<Verb> verb_of(absl::string_view name) {
  for (const VerbSpec& spec : kVerbs) {
    if (name == spec.name) return spec.verb;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no command \"", ctl::printable(name), "\""));
}

absl::StatusOr<Request> parse_request(absl::string_view line) {
  if (line.size() > kMostRequestBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "request: ", line.size(), " bytes, at most ", kMostRequestBytes));
  }
  const Json document = Json::parse(line.begin(), line.end(), nullptr,
                                    /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return absl::InvalidArgumentError("request: not one object of JSON");
  }
  Reader reader(document);
  std::string name;
  VHOST_RETURN_IF_ERROR(reader.text("command", name));
  const absl::StatusOr<Verb> verb = verb_of(name);
  if (!verb.ok()) return annotate(verb.status(), "request");
  Request out;
  out.verb = *verb;
  VHOST_RETURN_IF_ERROR(read_fields(reader, out));
  VHOST_RETURN_IF_ERROR(reader.nothing_else());
  return out;
}

std::string to_line(const Request& request) {
  Json document = Json::object();
  document["command"] = std::string(to_string(request.verb));
  switch (spec_of(request.verb).fields) {
    case Fields::kNone:
      break;
    case Fields::kDevices:
      document["devices"] = request.devices;
      if (request.no_drain) document["no_drain"] = true;
      break;
    case Fields::kSize:
      document["size"] = request.size;
      break;
    case Fields::kId:
      document["id"] = request.id;
      break;
    case Fields::kQueue:
      document["device"] = request.device;
      document["queue"] = request.queue;
      break;
    case Fields::kMove:
      document["to"] = request.to;
      document["bandwidth"] = request.bandwidth;
      document["downtime_ms"] = request.downtime_ms;
      document["no_drain"] = request.no_drain;
      document["compare"] = request.compare;
      break;
  }
  return dump(document);
}

std::string to_line(const absl::StatusOr<Json>& answer) {
  Json document = Json::object();
  document["ok"] = answer.ok();
  if (answer.ok()) {
    for (const auto& [name, value] : answer->items()) document[name] = value;
  } else {
    document["error"] = answer.status().ToString();
  }
  return dump(document);
}

}  // namespace vhost::minivm
