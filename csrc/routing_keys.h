// Keys of the routing hashes, which decide how long a grouping takes and never what comes out. They are drawn by the
// operating system once a process: whoever makes the rows cannot know them, so nobody can make many hashes collide.
#pragma once
#include "contract.h"

namespace cbkernels {

struct BlockKeys {  // the 2,048 keys of the block sums; routing hashes take the first ones
  alignas(64) uint32_t words[fingerprint::num_block_keys];
  explicit BlockKeys(const fingerprint::Key& key) {
    for (int j = 0; j < fingerprint::num_block_keys; ++j) words[j] = fingerprint::block_key(key, j);
  }
};

fingerprint::Key random_key();  // from the operating system

const BlockKeys& block_keys_of_routing();      // made of routing_key()

}  // namespace cbkernels
