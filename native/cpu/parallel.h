// Cuts row-wise work into tasks that are worth handing to another thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/thread_pool.h"

namespace hymba::cpu {

// Calls fn(row) for every row. A task is as many rows as make about 16 k elements: some ten
// microseconds, against the one or two that it takes to wake a spinning worker. A single decoded
// token therefore stays on its own thread.
template <typename Fn>
void for_rows(ThreadPool& pool, int64_t num_rows, int64_t row_elements, const Fn& fn) {
  constexpr int64_t kTaskElements = 16 * 1024;
  const int64_t rows_per_task =
      std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, row_elements));
  const int64_t num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  pool.parallel_for(num_tasks, [&](int64_t task) {
    const int64_t end = std::min(num_rows, (task + 1) * rows_per_task);
    for (int64_t row = task * rows_per_task; row < end; ++row) fn(row);
  });
}

}  // namespace hymba::cpu
