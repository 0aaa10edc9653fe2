// Computes  out[t] = table[id[t]], or meta[-1 - id[t]] for the meta tokens; and out[i] =
// in[rows[i]]
//           for chosen rows.
// Shapes    token_ids [T], table [V, C], meta [M, C], packed or row-major bf16, or row-major fp32;
//           rows [K]; in [T, C], out [T, C] or [K, C] fp32, rows may be strided.
// Mapping   a block a row, 8 columns a thread: in a packed matrix that is one 16-byte chunk of a
//           128-byte piece of a row.
// Numerics  exact.
// Limits    ids are checked before they get here. The id of a padded lane may be anything: a row
//           that is not there reads as zeroes.
// Cost      T·C·(2 or 4 + 4) bytes; bound by memory, in decode by latency.

#include <algorithm>

#include "cuda/device/chunk.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/views.cuh"
#include "cuda/packed_matrix.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kColumns = 8;  // of a thread
constexpr int kMaxThreads = 256;

// As many threads as a row needs, in whole warps.
dim3 block_for(int64_t width) {
  const auto warps = ceil_div<int64_t>(width, kColumns * kWarp);
  return dim3(static_cast<unsigned>(std::min<int64_t>(warps * kWarp, kMaxThreads)));
}

struct EmbeddingTable {
  const void* data;
  int64_t rows;
  int cols;
  bool bf16;
  bool packed;
  bool aligned;  // row-major rows can be read in chunks

  explicit EmbeddingTable(const Matrix& matrix)
      : data(matrix.blocks[0]),
        rows(matrix.rows),
        cols(static_cast<int>(matrix.cols)),
        bf16(matrix.dtype == DType::kBF16),
        packed(matrix.packed),
        aligned(matrix.cols % kColumns == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    if (matrix.rows > 0 && !bf16 && matrix.dtype != DType::kF32)
      fail(ErrorCode::kModelUnsupported, "embed_tokens: a table of ", dtype_name(matrix.dtype),
           " on CUDA, expected BF16 or F32");
  }

  // Columns [first, first + 8) of a row.
  __device__ __forceinline__ void read(float (&values)[kColumns], int64_t row, int first) const {
    if (packed) {
      const int64_t offset = packed_offset(row, first, packed_rows(rows));
      unpack(values, load_chunk<kColumns>(static_cast<const BFloat16*>(data) + offset, kColumns,
                                          /*aligned=*/true));
    } else if (bf16) {
      unpack(values, load_chunk<kColumns>(static_cast<const BFloat16*>(data) + row * cols + first,
                                          cols - first, aligned));
    } else {
      unpack(values, load_chunk<kColumns>(static_cast<const float*>(data) + row * cols + first,
                                          cols - first, aligned));
    }
  }
};

__global__ void embed_tokens_kernel(const int32_t* token_ids, EmbeddingTable table,
                                    EmbeddingTable meta, Rows<float> out, bool out_aligned) {
  allow_successor();
  wait_for_predecessor();
  const int64_t id = token_ids[blockIdx.x];
  const EmbeddingTable source = id < 0 ? meta : table;
  const int64_t row = id < 0 ? -1 - id : id;
  for (int first = threadIdx.x * kColumns; first < table.cols; first += blockDim.x * kColumns) {
    float values[kColumns] = {};
    if (row < source.rows) source.read(values, row, first);
    store_values(out[blockIdx.x] + first, values, table.cols - first, out_aligned);
  }
}

__global__ void gather_rows_kernel(Rows<const float> in, const int32_t* rows, Rows<float> out,
                                   int width, bool aligned) {
  allow_successor();
  wait_for_predecessor();
  const float* from = in[rows[blockIdx.x]];
  for (int first = threadIdx.x * kColumns; first < width; first += blockDim.x * kColumns)
    store_chunk(out[blockIdx.x] + first, load_chunk<kColumns>(from + first, width - first, aligned),
                width - first, aligned);
}

}  // namespace

void embed_tokens(const EmbedTokensArgs& args, const LaunchContext& context) {
  launch("embed_tokens", context, embed_tokens_kernel, dim3(args.token_ids.rows()),
         block_for(args.table.cols), 0, args.token_ids.data<int32_t>(), EmbeddingTable(args.table),
         EmbeddingTable(args.meta), Rows<float>(args.out), in_chunks<float, kColumns>(args.out));
}

void gather_rows(const GatherRowsArgs& args, const LaunchContext& context) {
  launch("gather_rows", context, gather_rows_kernel, dim3(args.rows.rows()),
         block_for(args.in.dim(1)), 0, Rows<const float>(args.in), args.rows.data<int32_t>(),
         Rows<float>(args.out), args.in.dim(1),
         in_chunks<float, kColumns>(args.in) && in_chunks<float, kColumns>(args.out));
}

}  // namespace hymba::cuda
