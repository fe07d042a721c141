#include "routing_keys.h"

#include <atomic>
#include <forward_list>
#include <mutex>
#include <random>

namespace cbkernels {
namespace {

struct RoutingKeys {
  fingerprint::Key key;
  BlockKeys blocks{key};
};

std::atomic<uint64_t> mask{~0ull};

std::atomic<const RoutingKeys*>& in_use() {
  static const RoutingKeys drawn{random_key()};
  static std::atomic<const RoutingKeys*> keys{&drawn};
  return keys;
}

}  // namespace

fingerprint::Key random_key() {
  std::random_device system;
  const auto bits = [&] { return static_cast<uint64_t>(system()) << 32 | system(); };
  const uint64_t low = bits();
  return {low, bits()};
}

fingerprint::Key routing_key() { return in_use().load(std::memory_order_acquire)->key; }
const BlockKeys& block_keys_of_routing() { return in_use().load(std::memory_order_acquire)->blocks; }

void use_routing_key(const fingerprint::Key& key) {
  static std::mutex mutex;
  static std::forward_list<RoutingKeys> made;  // none is freed: a call may hold it
  const std::lock_guard<std::mutex> lock(mutex);
  made.push_front({key});
  in_use() = &made.front();
}

void use_routing_bits(int bits) { mask = bits >= 64 ? ~0ull : bits <= 0 ? 0 : ~(~0ull >> bits); }
uint64_t routing_mask() { return mask.load(std::memory_order_relaxed); }

}  // namespace cbkernels
