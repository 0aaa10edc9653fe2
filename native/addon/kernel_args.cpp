#include "addon/kernel_args.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "core/page.h"

namespace hymba {
namespace {

constexpr std::array<std::string_view, 5> kDTypeNames = {"f32", "bf16", "f16", "i32", "u16"};
constexpr int kMaxRank = 3;  // of the stages' views

std::string_view js_name(DType dtype) { return kDTypeNames[static_cast<size_t>(dtype)]; }

// What a view says of itself.
struct ViewFields {
  int64_t memory;
  int64_t byte_offset;
  DType dtype;
  int rank;
  std::array<int64_t, kMaxRank> shape;
  int64_t row_stride;  // in elements
};

ViewFields view_from_js(const Napi::Object& object) {
  const auto integer = [&](const char* name) {
    return object.Get(name).As<Napi::Number>().Int64Value();
  };
  ViewFields view{.memory = integer("memory"),
                  .byte_offset = integer("byteOffset"),
                  .dtype = dtype_from_js(object.Get("dtype")),
                  .rank = 0,
                  .shape = {},
                  .row_stride = integer("rowStride")};
  const auto shape = object.Get("shape").As<Napi::Array>();
  view.rank = static_cast<int>(shape.Length());
  for (int i = 0; i < std::min(view.rank, kMaxRank); ++i)
    view.shape[i] = shape.Get(i).As<Napi::Number>().Int64Value();
  return view;
}

// a · b, or more than any memory has.
int64_t bounded_product(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

// Elements of a row, or -1 for a shape or a stride that no view has.
int64_t row_elements(const ViewFields& view) {
  int64_t count = 1;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 1) return -1;
    if (i > 0) count = bounded_product(count, view.shape[i]);
  }
  return view.row_stride >= count ? count : -1;
}

// Whether everything from the first element to the last lies in `bytes` of memory.
bool fits(const ViewFields& view, int64_t elements_a_row, size_t bytes) {
  const int64_t size = static_cast<int64_t>(dtype_bytes(view.dtype));
  if (view.byte_offset < 0 || view.byte_offset % size != 0) return false;
  const int64_t room = (static_cast<int64_t>(bytes) - view.byte_offset) / size;
  return elements_a_row <= room &&
         bounded_product(view.shape[0] - 1, view.row_stride) <= room - elements_a_row;
}

TensorView to_view(const ViewFields& view, void* data) {
  const auto [rows, heads, dim] = view.shape;
  if (view.rank == 1) return TensorView(data, view.dtype, {rows});
  const TensorView whole(data, view.dtype, {rows, view.row_stride});
  if (view.rank == 2) return whole.slice_columns(0, heads);
  return whole.slice_columns(0, heads * dim).split_columns(heads, dim);
}

}  // namespace

DType dtype_from_js(const Napi::Value& name) {
  const std::string text = name.As<Napi::String>().Utf8Value();
  const auto found = std::find(kDTypeNames.begin(), kDTypeNames.end(), text);
  if (found == kDTypeNames.end()) fail(ErrorCode::kInvalidArgument, "unknown dtype \"", text, "\"");
  return static_cast<DType>(found - kDTypeNames.begin());
}

TensorView KernelArgs::view(const char* name, int rank, std::initializer_list<DType> dtypes,
                            Density density) const {
  const Napi::Value value = fields_.Get(name);
  if (!value.IsObject()) refuse(name, "is missing");
  const ViewFields view = view_from_js(value.As<Napi::Object>());
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) == dtypes.end()) {
    std::string expected;
    for (DType dtype : dtypes)
      expected.append(expected.empty() ? "" : " or ").append(js_name(dtype));
    refuse(name, "is ", js_name(view.dtype), ", expected ", expected);
  }
  if (view.rank != rank) refuse(name, "has rank ", view.rank, ", expected ", rank);
  const int64_t elements_a_row = row_elements(view);
  const Slab& slab = heap_.memory(view.memory);
  if (elements_a_row < 0 || !fits(view, elements_a_row, slab.bytes()))
    refuse(name, "reaches outside of its memory of ", slab.bytes(), " bytes");
  if (density == Density::kDense && view.row_stride != elements_a_row)
    refuse(name, "has rows of ", elements_a_row, " elements ", view.row_stride,
           " apart, and must have no gaps");
  return to_view(view, static_cast<char*>(slab.data()) + view.byte_offset);
}

TensorView KernelArgs::rows(const char* name, int rank) const {
  return view(name, rank, {DType::kF32, DType::kBF16}, Density::kStrided);
}

TensorView KernelArgs::rows(const char* name, int rank, DType dtype) const {
  return view(name, rank, {dtype}, Density::kStrided);
}

TensorView KernelArgs::dense(const char* name, int rank, DType dtype) const {
  return view(name, rank, {dtype}, Density::kDense);
}

TensorView KernelArgs::optional_rows(const char* name, int rank) const {
  return has(name) ? rows(name, rank) : TensorView();
}

TensorView KernelArgs::optional_dense(const char* name, int rank, DType dtype) const {
  return has(name) ? dense(name, rank, dtype) : TensorView();
}

Matrix KernelArgs::matrix(const char* name) const {
  if (!has(name)) refuse(name, "is missing");
  return heap_.matrix(fields_.Get(name).As<Napi::Number>().Int64Value()).matrix;
}

Matrix KernelArgs::optional_matrix(const char* name) const {
  return has(name) ? matrix(name) : Matrix();
}

Matrix KernelArgs::matrix_for(const char* name, const TensorView& in) const {
  const Matrix result = matrix(name);
  const DType act = heap_.matrix(fields_.Get(name).As<Napi::Number>().Int64Value()).act;
  if (act != in.dtype())
    refuse(name, "was imported for ", js_name(act), " activations, which are ",
           js_name(in.dtype()));
  return result;
}

float KernelArgs::number(const char* name) const {
  return fields_.Get(name).As<Napi::Number>().FloatValue();
}

int KernelArgs::integer(const char* name) const {
  return fields_.Get(name).As<Napi::Number>().Int32Value();
}

bool KernelArgs::flag(const char* name) const {
  return has(name) && fields_.Get(name).As<Napi::Boolean>().Value();
}

std::string KernelArgs::text(const char* name) const {
  return fields_.Get(name).As<Napi::String>().Utf8Value();
}

BatchView KernelArgs::batch() const {
  const KernelArgs batch = nested("batch");
  const auto ints = [&](const char* name) { return batch.dense(name, 1, DType::kI32); };
  return {.num_tokens = batch.integer("numTokens"),
          .num_spans = batch.integer("numSpans"),
          .token_ids = batch.optional_dense("tokenIds", 1, DType::kI32),
          .positions = ints("positions"),
          .token_spans = ints("tokenSpans"),
          .span_offsets = ints("spanOffsets"),
          .state_source = ints("stateSource"),
          .state_slot = ints("stateSlot")};
}

KvLayerView KernelArgs::kv() const {
  const KernelArgs kv = nested("kv");
  const TensorView pool = kv.view("pool", 2, {DType::kF32, DType::kBF16}, Density::kDense);
  const KvLayerView view{.pool = pool.raw(),
                         .dtype = pool.dtype(),
                         .num_pages = static_cast<int>(pool.rows()),
                         .num_layers = kv.integer("numLayers"),
                         .layer_idx = kv.integer("layerIdx"),
                         .num_kv_heads = kv.integer("numKvHeads"),
                         .head_dim = kv.integer("headDim"),
                         .value_head_dim = kv.integer("valueHeadDim"),
                         .page_table = kv.rows("pageTable", 2, DType::kI32),
                         .num_meta_tokens = kv.integer("numMetaTokens"),
                         .meta_columns = kv.integer("metaColumns"),
                         .ring_columns = kv.integer("ringColumns")};
  // 64-bit and without overflow: TypeScript lets none of the factors be above 2^15.
  const int64_t tiles = static_cast<int64_t>(view.num_layers) * view.num_kv_heads;
  if (tiles * view.tile_elements() != pool.dim(1))
    kv.refuse("pool", "has pages of ", pool.dim(1), " elements, expected ",
              tiles * view.tile_elements(), ": numLayers · numKvHeads · ", kPageTokens,
              " · (headDim + valueHeadDim)");
  if (view.num_meta_tokens > view.meta_columns * kPageTokens)
    kv.refuse("metaColumns", "is ", view.meta_columns, ", too few for ", view.num_meta_tokens,
              " meta tokens");
  return view;
}

}  // namespace hymba
