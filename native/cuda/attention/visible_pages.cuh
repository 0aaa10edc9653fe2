// Which pages of K/V consecutive tokens of a span see, and which keys of a page a token sees.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/kv_pages.cuh"

namespace hymba::cuda {

// In the order in which they are visited: the pages of the meta tokens, then those of the text from
// the one with the oldest key in the first token's window to the one with the last token. Nothing
// else of the page table is looked at: other columns may be stale.
//
// The keys of a page that a token sees are always neighbours, slots [first_slot, end_slot).
class VisiblePages {
 public:
  template <typename Act>
  __device__ __forceinline__ VisiblePages(const KvPages<Act>& kv, int window, int first_position,
                                          int last_position)
      : num_meta_tokens_(kv.num_meta_tokens),
        meta_columns_(kv.meta_columns),
        ring_columns_(kv.ring_columns),
        window_(window),
        meta_pages_((min(kv.num_meta_tokens, last_position + 1) + kPageTokens - 1) / kPageTokens),
        first_text_page_(0),
        count_(meta_pages_) {
    if (last_position < num_meta_tokens_) return;
    first_text_page_ = max(0, oldest_position(first_position) - num_meta_tokens_) / kPageTokens;
    const int last_text_page = (last_position - num_meta_tokens_) / kPageTokens;
    count_ += last_text_page - first_text_page_ + 1;
  }

  __device__ __forceinline__ int count() const { return count_; }

  // Of the page table.
  __device__ __forceinline__ int column(int page) const {
    return page < meta_pages_
               ? page
               : meta_columns_ + (first_text_page_ + page - meta_pages_) % ring_columns_;
  }

  __device__ __forceinline__ int first_slot(int page, int query) const {
    return page < meta_pages_ ? 0 : max(0, oldest_position(query) - first_position(page));
  }
  // 0 or less when the page begins after the token.
  __device__ __forceinline__ int end_slot(int page, int query) const {
    const int end = min(kPageTokens, query + 1 - first_position(page));
    return page < meta_pages_ ? min(end, num_meta_tokens_ - page * kPageTokens) : end;
  }

 private:
  // Of the text, as far as the window is concerned.
  __device__ __forceinline__ int oldest_position(int query) const {
    return window_ < 0 ? 0 : max(0, query - window_);
  }
  // Of the key in slot 0.
  __device__ __forceinline__ int first_position(int page) const {
    return page < meta_pages_
               ? page * kPageTokens
               : num_meta_tokens_ + (first_text_page_ + page - meta_pages_) * kPageTokens;
  }

  int num_meta_tokens_;
  int meta_columns_;
  int ring_columns_;
  int window_;
  int meta_pages_;
  int first_text_page_;
  int count_;
};

}  // namespace hymba::cuda
