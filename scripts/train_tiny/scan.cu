// Selective scan with its gradient, for training.
//
// Computes, for every sequence b, channel e and state n, starting from s_{-1} = 0:
//   delta_t = softplus(dt_t[e] + dt_bias[e])
//   s_t[e,n] = exp(delta_t * a[e,n]) * s_{t-1}[e,n] + delta_t * bt_t[n] * u_t[e]
//   y_t[e]   = sum_n s_t[e,n] * ct_t[n]
// Shapes: u, dt, y [B, T, E] fp32 or bf16; a [E, N], dt_bias [E], bt, ct [B, T, N] fp32; N = 16.
//
// Mapping: a block owns 32 channels of one sequence and walks through time in chunks of 16 tokens;
// four neighbouring lanes share a channel, each with four states in registers. The forward pass
// stores the state before every chunk; the backward pass rebuilds a chunk's states from it in
// registers. All arithmetic fp32. Sums over channels (gradients of bt and ct) leave each block as
// partial sums, so results are deterministic.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace {

constexpr int kStates = 16;
constexpr int kLanes = 4;                     // lanes that share a channel, four states each
constexpr int kChannels = 32;                 // channels of a block
constexpr int kThreads = kChannels * kLanes;  // 128
constexpr int kWarps = kThreads / 32;
constexpr int kChunk = 16;  // tokens between two checkpoints
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

__device__ float4 Load4(const float* p) { return *reinterpret_cast<const float4*>(p); }

__device__ float4 Load4(const __nv_bfloat16* p) {
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(p);
  const float2 low = __bfloat1622float2(pairs[0]), high = __bfloat1622float2(pairs[1]);
  return make_float4(low.x, low.y, high.x, high.y);
}

__device__ void Store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }

__device__ void Store4(__nv_bfloat16* p, float4 v) {
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(p);
  pairs[0] = __floats2bfloat162_rn(v.x, v.y);
  pairs[1] = __floats2bfloat162_rn(v.z, v.w);
}

__device__ float Softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }

__device__ float Dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

// exp(delta * a), given a in units of log2(e).
__device__ float4 Decay(float delta, float4 a2) {
  return make_float4(exp2f(delta * a2.x), exp2f(delta * a2.y), exp2f(delta * a2.z),
                     exp2f(delta * a2.w));
}

__device__ float4 Advance(float4 s, float4 decay, float x, float4 b) {
  return make_float4(fmaf(decay.x, s.x, x * b.x), fmaf(decay.y, s.y, x * b.y),
                     fmaf(decay.z, s.z, x * b.z), fmaf(decay.w, s.w, x * b.w));
}

// Sum over the four lanes of a channel.
__device__ float SumLanes(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

// Sums eight values over the eight channels of a warp in seven shuffles: every step halves the
// values a lane keeps. Afterwards the lane of channel c (lane / 4) holds the sum of values[c].
__device__ float SumChannels(float (&values)[8], int channel_in_warp) {
#pragma unroll
  for (int half = 4; half >= 1; half /= 2) {
    const bool upper = channel_in_warp & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float keep = upper ? values[i + half] : values[i];
      const float send = upper ? values[i] : values[i + half];
      values[i] = keep + __shfl_xor_sync(~0u, send, half * kLanes);
    }
  }
  return values[0];
}

// Where a thread stands: its part of a [16 tokens, 32 channels] tile when it copies, its channel
// when it computes.
struct Place {
  int sequence = blockIdx.y;
  int first_channel = blockIdx.x * kChannels;
  int row = threadIdx.x / 8, column = threadIdx.x % 8 * 4;  // copying
  int channel = threadIdx.x / kLanes,
      quad = threadIdx.x % kLanes * 4;  // computing; quad: first state

  // Offset in [B, T, E] of the four channels that this thread copies at token `chunk * 16 + row`.
  __device__ size_t Tile(int chunk, int T, int E) const {
    return (static_cast<size_t>(sequence) * T + chunk * kChunk + row) * E + first_channel + column;
  }
  // Offset in [B, chunks, E, N] of this thread's four states before `chunk`.
  __device__ size_t Checkpoint(int chunk, int num_chunks, int E) const {
    return ((static_cast<size_t>(sequence) * num_chunks + chunk) * E + first_channel + channel) *
               kStates +
           quad;
  }
  // Offset in [B, T, N] of the four values that this thread copies: threads below 64 bt, the others
  // ct.
  __device__ size_t States(int chunk, int T) const {
    const int copy = threadIdx.x % 64;
    return (static_cast<size_t>(sequence) * T + chunk * kChunk + copy / 4) * kStates + copy % 4 * 4;
  }
};

// One chunk of inputs in shared memory; rows past T are zero, which leaves a state as it is.
struct Tile {
  float u[kChunk][kChannels], delta[kChunk][kChannels], dy[kChunk][kChannels];
  float bc[2][kChunk][kStates];
};

// The same chunk on its way from global memory, in registers.
template <typename T>
struct Inputs {
  float4 u{}, dt{}, dy{}, bc{};
  bool inside, bc_inside;

  __device__ Inputs(const Place& at, int chunk, const T* u_in, const T* dt_in, const T* dy_in,
                    const float* bt, const float* ct, int num_tokens, int E) {
    inside = chunk * kChunk + at.row < num_tokens;
    bc_inside = chunk * kChunk + static_cast<int>(threadIdx.x % 64) / 4 < num_tokens;
    const size_t offset = at.Tile(chunk, num_tokens, E);
    if (inside) {
      u = Load4(u_in + offset);
      dt = Load4(dt_in + offset);
      if (dy_in) dy = Load4(dy_in + offset);
    }
    if (bc_inside) bc = Load4((threadIdx.x < 64 ? bt : ct) + at.States(chunk, num_tokens));
  }

  __device__ void Stage(Tile& tile, const Place& at, float4 bias) const {
    Store4(&tile.u[at.row][at.column], u);
    Store4(&tile.dy[at.row][at.column], dy);
    Store4(&tile.delta[at.row][at.column],
           inside ? make_float4(Softplus(dt.x + bias.x), Softplus(dt.y + bias.y),
                                Softplus(dt.z + bias.z), Softplus(dt.w + bias.w))
                  : float4{});
    const int copy = threadIdx.x % 64;
    Store4(&tile.bc[threadIdx.x / 64][copy / 4][copy % 4 * 4], bc);
  }
};

__device__ float4 LoadA2(const float* a, const Place& at) {
  const float4 v = Load4(a + (at.first_channel + at.channel) * kStates + at.quad);
  return make_float4(v.x * kLog2E, v.y * kLog2E, v.z * kLog2E, v.w * kLog2E);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    Forward(const T* u, const T* dt, const float* dt_bias, const float* a, const float* bt,
            const float* ct, T* y, float* checkpoints, int num_tokens, int E) {
  __shared__ Tile tile;
  __shared__ float out[kChunk][kChannels];
  const Place at;
  const float4 a2 = LoadA2(a, at), bias = Load4(dt_bias + at.first_channel + at.column);
  const int num_chunks = (num_tokens + kChunk - 1) / kChunk;
  float4 s{};
  Inputs<T> next(at, 0, u, dt, nullptr, bt, ct, num_tokens, E);
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    const Inputs<T> now = next;
    now.Stage(tile, at, bias);
    __syncthreads();
    if (chunk + 1 < num_chunks)
      next = Inputs<T>(at, chunk + 1, u, dt, nullptr, bt, ct, num_tokens, E);
    Store4(checkpoints + at.Checkpoint(chunk, num_chunks, E), s);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float delta = tile.delta[i][at.channel];
      s = Advance(s, Decay(delta, a2), delta * tile.u[i][at.channel],
                  Load4(&tile.bc[0][i][at.quad]));
      const float sum = SumLanes(Dot(s, Load4(&tile.bc[1][i][at.quad])));
      if (at.quad == 0) out[i][at.channel] = sum;
    }
    __syncthreads();
    if (now.inside) Store4(y + at.Tile(chunk, num_tokens, E), Load4(&out[at.row][at.column]));
  }
}

// du, ddt [B, T, E]; da_partial [B, E, N]; dbc_partial [E / 32, B, T, 2N], bt's half first. The
// gradient of dt_bias is the sum of ddt.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    Backward(const T* u, const T* dt, const float* dt_bias, const float* a, const float* bt,
             const float* ct, const float* checkpoints, const T* dy, T* du, T* ddt,
             float* da_partial, float* dbc_partial, int num_tokens, int E) {
  __shared__ Tile tile;
  __shared__ float du_out[kChunk][kChannels], ddt_out[kChunk][kChannels];
  __shared__ float dbc[kWarps][kChunk][2 * kStates];
  const Place at;
  const float4 a2 = LoadA2(a, at), bias = Load4(dt_bias + at.first_channel + at.column);
  const int num_chunks = (num_tokens + kChunk - 1) / kChunk;
  const int warp = threadIdx.x / 32, channel_in_warp = at.channel % 8;
  // After SumChannels a lane holds one of the eight values of its quad: four of bt, then four of
  // ct.
  const int dbc_column = channel_in_warp / 4 * kStates + at.quad + channel_in_warp % 4;
  float4 g{}, da{};  // g: gradient of the state that flows back from later tokens
  for (int chunk = num_chunks - 1; chunk >= 0; --chunk) {
    const Inputs<T> now(at, chunk, u, dt, dy, bt, ct, num_tokens, E);
    float4 s = Load4(checkpoints + at.Checkpoint(chunk, num_chunks, E));
    now.Stage(tile, at, bias);
    __syncthreads();
    float4 before[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      before[i] = s;
      const float delta = tile.delta[i][at.channel];
      s = Advance(s, Decay(delta, a2), delta * tile.u[i][at.channel],
                  Load4(&tile.bc[0][i][at.quad]));
    }
#pragma unroll
    for (int i = kChunk - 1; i >= 0; --i) {
      const float delta = tile.delta[i][at.channel], input = tile.u[i][at.channel],
                  grad = tile.dy[i][at.channel];
      const float4 b = Load4(&tile.bc[0][i][at.quad]), c = Load4(&tile.bc[1][i][at.quad]);
      const float x = delta * input;
      const float4 decay = Decay(delta, a2), now_s = Advance(before[i], decay, x, b);
      g = make_float4(fmaf(grad, c.x, g.x), fmaf(grad, c.y, g.y), fmaf(grad, c.z, g.z),
                      fmaf(grad, c.w, g.w));
      float values[8] = {g.x * x,        g.y * x,        g.z * x,        g.w * x,
                         grad * now_s.x, grad * now_s.y, grad * now_s.z, grad * now_s.w};
      dbc[warp][i][dbc_column] = SumChannels(values, channel_in_warp);
      const float dx = SumLanes(Dot(g, b));
      g = make_float4(g.x * decay.x, g.y * decay.y, g.z * decay.z, g.w * decay.w);
      const float4 dlog =
          make_float4(g.x * before[i].x, g.y * before[i].y, g.z * before[i].z, g.w * before[i].w);
      da = make_float4(fmaf(delta, dlog.x, da.x), fmaf(delta, dlog.y, da.y),
                       fmaf(delta, dlog.z, da.z), fmaf(delta, dlog.w, da.w));
      const float ddelta = kLn2 * SumLanes(Dot(dlog, a2)) + dx * input;
      if (at.quad == 0) {
        du_out[i][at.channel] = dx * delta;
        ddt_out[i][at.channel] = -ddelta * expm1f(-delta);  // sigmoid(x) = 1 - exp(-softplus(x))
      }
    }
    __syncthreads();
    if (now.inside) {
      Store4(du + at.Tile(chunk, num_tokens, E), Load4(&du_out[at.row][at.column]));
      Store4(ddt + at.Tile(chunk, num_tokens, E), Load4(&ddt_out[at.row][at.column]));
      float4 sum{};
      for (int w = 0; w < kWarps; ++w) {
        const float4 part = Load4(&dbc[w][at.row][at.column]);
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      const size_t row =
          (static_cast<size_t>(blockIdx.x) * gridDim.y + at.sequence) * num_tokens + chunk * kChunk;
      Store4(dbc_partial + (row + at.row) * 2 * kStates + at.column, sum);
    }
  }
  Store4(da_partial +
             (static_cast<size_t>(at.sequence) * E + at.first_channel + at.channel) * kStates +
             at.quad,
         da);
}

template <typename T>
cudaError_t LaunchForward(const void* u, const void* dt, const float* dt_bias, const float* a,
                          const float* bt, const float* ct, void* y, float* checkpoints, int B,
                          int num_tokens, int E, cudaStream_t stream) {
  Forward<T><<<dim3(E / kChannels, B), kThreads, 0, stream>>>(
      static_cast<const T*>(u), static_cast<const T*>(dt), dt_bias, a, bt, ct, static_cast<T*>(y),
      checkpoints, num_tokens, E);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchBackward(const void* u, const void* dt, const float* dt_bias, const float* a,
                           const float* bt, const float* ct, const float* checkpoints,
                           const void* dy, void* du, void* ddt, float* da_partial,
                           float* dbc_partial, int B, int num_tokens, int E, cudaStream_t stream) {
  Backward<T><<<dim3(E / kChannels, B), kThreads, 0, stream>>>(
      static_cast<const T*>(u), static_cast<const T*>(dt), dt_bias, a, bt, ct, checkpoints,
      static_cast<const T*>(dy), static_cast<T*>(du), static_cast<T*>(ddt), da_partial, dbc_partial,
      num_tokens, E);
  return cudaGetLastError();
}

}  // namespace

// The entry points, called through ctypes: contiguous device memory of the shapes above, E a
// multiple of 32; `bf16` says what u, dt, y and their gradients are, otherwise they are fp32. Both
// return a cudaError_t.
extern "C" int scan_forward(int bf16, const void* u, const void* dt, const float* dt_bias,
                            const float* a, const float* bt, const float* ct, void* y,
                            float* checkpoints, int B, int num_tokens, int E, cudaStream_t stream) {
  const auto launch = bf16 ? LaunchForward<__nv_bfloat16> : LaunchForward<float>;
  return launch(u, dt, dt_bias, a, bt, ct, y, checkpoints, B, num_tokens, E, stream);
}

extern "C" int scan_backward(int bf16, const void* u, const void* dt, const float* dt_bias,
                             const float* a, const float* bt, const float* ct,
                             const float* checkpoints, const void* dy, void* du, void* ddt,
                             float* da_partial, float* dbc_partial, int B, int num_tokens, int E,
                             cudaStream_t stream) {
  const auto launch = bf16 ? LaunchBackward<__nv_bfloat16> : LaunchBackward<float>;
  return launch(u, dt, dt_bias, a, bt, ct, checkpoints, dy, du, ddt, da_partial, dbc_partial, B,
                num_tokens, E, stream);
}
