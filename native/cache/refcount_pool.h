// Hands out the ids 0 … capacity-1 and counts who holds each: pages of a K/V pool, state slots.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hymba {

// An id is free, or held by one or more owners. Free ids form a stack: the same calls always give
// the same ids, and giving ids back in the reverse order of taking them restores the stack exactly.
// Nothing is allocated after construction.
class RefcountPool {
 public:
  // `unit` names one id in messages: "state slot".
  RefcountPool(std::string unit, int capacity);

  // The id that was freed last (0, 1, 2, … from a new pool), now held once. Ask num_free() first.
  int acquire();
  // One more owner of a held id.
  void retain(int id);
  // One owner less. Returns whether that freed the id.
  bool release(int id);

  // 0 when free.
  int num_owners(int id) const;
  int capacity() const { return static_cast<int>(num_owners_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  int num_used() const { return capacity() - num_free(); }

 private:
  void check_held(int id, const char* call) const;

  std::string unit_;
  std::vector<int32_t> num_owners_;
  std::vector<int32_t> free_;  // the next one to hand out is at the back
};

}  // namespace hymba
