#include "cache/refcount_pool.h"

#include <utility>

#include "core/error.h"

namespace hymba {

RefcountPool::RefcountPool(std::string unit, int capacity) : unit_(std::move(unit)) {
  check(capacity >= 0, unit_, ": a pool of ", capacity);
  num_owners_.assign(capacity, 0);
  free_.reserve(capacity);
  for (int id = capacity - 1; id >= 0; --id) free_.push_back(id);
}

int RefcountPool::acquire() {
  check(!free_.empty(), unit_, ": all ", capacity(), " are in use");
  const int id = free_.back();
  free_.pop_back();
  num_owners_[id] = 1;
  return id;
}

void RefcountPool::retain(int id) {
  check_held(id, "retain");
  ++num_owners_[id];
}

bool RefcountPool::release(int id) {
  check_held(id, "release");
  if (--num_owners_[id] > 0) return false;
  free_.push_back(id);
  return true;
}

int RefcountPool::num_owners(int id) const {
  check(id >= 0 && id < capacity(), unit_, " ", id, " of ", capacity());
  return num_owners_[id];
}

void RefcountPool::check_held(int id, const char* call) const {
  check(num_owners(id) > 0, call, " of ", unit_, " ", id, ", which is free");
}

}  // namespace hymba
