#include "cache/refcount_pool.h"

#include <utility>

#include "core/error.h"

namespace hymba {

RefcountPool::RefcountPool(std::string unit, int capacity) : unit_(std::move(unit)) {
  check(capacity >= 0, unit_, ": a pool of ", capacity);
  holders_.resize(capacity);
  free_.reserve(capacity);
  for (int id = capacity - 1; id >= 0; --id) free_.push_back(id);
}

int RefcountPool::acquire(Hold hold) {
  check(!free_.empty(), unit_, ": all ", capacity(), " are in use");
  const int id = free_.back();
  free_.pop_back();
  add(id, hold);
  return id;
}

void RefcountPool::retain(int id, Hold hold) {
  check(num_holders(id) > 0, "retain of ", unit_, " ", id, ", which is free");
  add(id, hold);
}

bool RefcountPool::release(int id, Hold hold) {
  check_id(id);
  Holders& held = holders_[id];
  check(held[hold] > 0, "release of ", unit_, " ", id, ", which is free");
  --held[hold];
  if (hold == Hold::kUse && held.use == 0) --num_used_;
  if (held.total() > 0) return false;
  free_.push_back(id);
  return true;
}

int RefcountPool::num_holders(int id) const {
  check_id(id);
  return holders_[id].total();
}

int RefcountPool::num_users(int id) const {
  check_id(id);
  return holders_[id].use;
}

void RefcountPool::add(int id, Hold hold) {
  if (++holders_[id][hold] == 1 && hold == Hold::kUse) ++num_used_;
}

void RefcountPool::check_id(int id) const {
  check(id >= 0 && id < capacity(), unit_, " ", id, " of ", capacity());
}

}  // namespace hymba
