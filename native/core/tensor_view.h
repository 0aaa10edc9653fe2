// A typed, strided view of memory that somebody else owns: on the host or on a device.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "core/dtype.h"
#include "core/error.h"

namespace hymba {

// Rows of a matrix (rank 2) may lie apart by `row_stride` elements, so that a range of columns is a
// view too. All other dimensions are dense: [rows, d1, d2, …] has d1·d2·… consecutive elements a
// row.
class TensorView {
 public:
  TensorView() = default;
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> shape)
      : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())) {
    check(shape.size() >= 1 && shape.size() <= shape_.size(), "TensorView: rank ", shape.size());
    int i = 0;
    for (int64_t extent : shape) shape_[i++] = extent;
    row_stride_ = row_elements();
  }

  bool empty() const { return data_ == nullptr; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t rows() const { return shape_[0]; }
  int64_t row_stride() const { return row_stride_; }
  int64_t row_elements() const {
    int64_t count = 1;
    for (int i = 1; i < rank_; ++i) count *= shape_[i];
    return count;
  }
  int64_t elements() const { return rows() * row_elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype_); }
  bool dense() const { return row_stride_ == row_elements(); }
  void* raw() const { return data_; }

  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  template <typename T>
  T* row(int64_t i) const {
    return static_cast<T*>(data_) + i * row_stride_;
  }

  // Rows [first, first + count).
  TensorView slice_rows(int64_t first, int64_t count) const {
    check(first >= 0 && count >= 0 && first + count <= rows(), "TensorView: rows [", first, ", ",
          first + count, ") of ", rows());
    TensorView view = *this;
    view.data_ = static_cast<char*>(data_) + first * row_stride_ * dtype_bytes(dtype_);
    view.shape_[0] = count;
    return view;
  }

  // Columns [first, first + count) of a rank-2 view.
  TensorView slice_columns(int64_t first, int64_t count) const {
    check(rank_ == 2 && first >= 0 && count >= 0 && first + count <= dim(1),
          "TensorView: columns [", first, ", ", first + count, ") of ", dim(1));
    TensorView view = *this;
    view.data_ = static_cast<char*>(data_) + first * dtype_bytes(dtype_);
    view.shape_[1] = count;
    return view;
  }

  // A rank-2 view [T, heads · dim] seen as [T, heads, dim].
  TensorView split_columns(int64_t heads, int64_t dim) const {
    check(rank_ == 2 && heads * dim == shape_[1], "TensorView: ", shape_[1], " columns as ", heads,
          " x ", dim);
    TensorView view = *this;
    view.rank_ = 3;
    view.shape_[1] = heads;
    view.shape_[2] = dim;
    return view;
  }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, 4> shape_{};
  int64_t row_stride_ = 0;
};

}  // namespace hymba
