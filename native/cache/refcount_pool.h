// Hands out the ids 0 … capacity-1 and counts who holds each: pages of a K/V pool, state slots.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hymba {

// How an id is held: by who works with it, or by who only keeps it for later and can give it back
// at any time.
enum class Hold { kUse, kKeep };

// An id is free, or held by one or more holders. Free ids form a stack: the same calls always give
// the same ids, and giving ids back in the reverse order of taking them restores the stack exactly.
// Nothing is allocated after construction.
class RefcountPool {
 public:
  // `unit` names one id in messages: "state slot".
  RefcountPool(std::string unit, int capacity);

  // The id that was freed last (0, 1, 2, … from a new pool), now held once. Ask num_free() first.
  int acquire(Hold hold = Hold::kUse);
  // One more holder of a held id.
  void retain(int id, Hold hold = Hold::kUse);
  // One holder less. Returns whether that freed the id.
  bool release(int id, Hold hold = Hold::kUse);

  // Of both kinds; 0 when free.
  int num_holders(int id) const;
  int num_users(int id) const;
  int capacity() const { return static_cast<int>(holders_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  // Ids that somebody uses.
  int num_used() const { return num_used_; }
  // Ids that nobody uses but somebody keeps.
  int num_kept() const { return capacity() - num_free() - num_used(); }

 private:
  struct Holders {
    int32_t use = 0;
    int32_t keep = 0;

    int32_t& operator[](Hold hold) { return hold == Hold::kUse ? use : keep; }
    int32_t total() const { return use + keep; }
  };

  void add(int id, Hold hold);
  void check_id(int id) const;

  std::string unit_;
  std::vector<Holders> holders_;
  std::vector<int32_t> free_;  // the next one to hand out is at the back
  int num_used_ = 0;
};

}  // namespace hymba
