// Who may ask for what: paths, the API key, and addresses that only this machine reaches.
#pragma once

#include <string>
#include <string_view>

namespace qad::serve {

// "GET" or "POST" for a path that the server has, else null.
const char* method_of(std::string_view path);

// Whether `authorization` is "Bearer KEY"; always for an empty key. Takes as long for a wrong key
// as for the right one, so that time does not tell how much of it was right.
bool may_pass(std::string_view authorization, std::string_view key);

// Whether all addresses of `host` are this machine's own (127.0.0.0/8, ::1). Error for a host that
// cannot be resolved.
bool is_loopback(const std::string& host);

}  // namespace qad::serve
