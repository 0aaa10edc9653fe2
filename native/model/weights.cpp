#include "model/weights.h"

#include <cmath>
#include <string>

namespace hymba {
namespace {

// Brings tensors over one by one, under the names of the published checkpoint.
class Importer {
 public:
  Importer(const HostTensors& tensors, DType act, Backend& backend, Arena& arena, bool counting,
           Weights& weights)
      : tensors_(tensors),
        act_(act),
        backend_(backend),
        arena_(arena),
        counting_(counting),
        weights_(weights) {}

  Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    const HostTensor tensor = get(name, rows, cols);
    return backend_.import_matrix(std::array{tensor.view}, act_, arena_);
  }

  Matrix matrix_pair(const std::string& first, const std::string& second, int64_t rows,
                     int64_t cols) {
    const HostTensor a = get(first, rows, cols);
    const HostTensor b = get(second, rows, cols);
    return backend_.import_matrix(std::array{a.view, b.view}, act_, arena_);
  }

  TensorView vector(const std::string& name, int64_t size) {
    return upload(arena_.take(DType::kF32, {size}), floats(name, 1, size));
  }

  TensorView table(const std::string& name, int64_t rows, int64_t cols) {
    return upload(arena_.take(DType::kF32, {rows, cols}), floats(name, rows, cols));
  }

  // A = -exp(A_log), once and for all.
  TensorView negative_exp(const std::string& name, int64_t rows, int64_t cols) {
    std::vector<float> values = floats(name, rows, cols);
    for (float& value : values) value = -std::exp(value);
    return upload(arena_.take(DType::kF32, {rows, cols}), values);
  }

  // One row for each head: the stored ones, or the single stored row again and again.
  TensorView head_norm(const std::string& name, int64_t heads, int64_t dim, bool per_head) {
    std::vector<float> values = floats(name, per_head ? heads : 1, dim);
    const size_t stored = values.size();
    values.resize(values.empty() ? 0 : heads * dim);
    for (size_t i = stored; i < values.size(); ++i) values[i] = values[i - dim];
    return upload(arena_.take(DType::kF32, {heads, dim}), values);
  }

 private:
  HostTensor get(const std::string& name, int64_t rows, int64_t cols) {
    HostTensor tensor = tensors_.get(name, rows, cols);
    if (backend_.borrows_host_weights()) {
      weights_.borrowed_bytes += tensor.view.bytes();
      weights_.owners.push_back(tensor.owner);
    }
    return tensor;
  }

  std::vector<float> floats(const std::string& name, int64_t rows, int64_t cols) {
    const HostTensor tensor = tensors_.get(name, rows, cols);
    if (counting_) return {};
    std::vector<float> values(rows * cols);
    for (size_t i = 0; i < values.size(); ++i) {
      switch (tensor.view.dtype()) {
        case DType::kF32:
          values[i] = tensor.view.data<float>()[i];
          break;
        case DType::kBF16:
          values[i] = to_float(tensor.view.data<BFloat16>()[i]);
          break;
        case DType::kF16:
          values[i] = to_float(tensor.view.data<Float16>()[i]);
          break;
        default:
          fail(ErrorCode::kModelFormat, "tensor ", name, " is ", dtype_name(tensor.view.dtype()));
      }
    }
    return values;
  }

  TensorView upload(const TensorView& view, const std::vector<float>& values) {
    if (!counting_) backend_.upload(view.raw(), values.data(), view.bytes());
    return view;
  }

  const HostTensors& tensors_;
  const DType act_;
  Backend& backend_;
  Arena& arena_;
  bool counting_;
  Weights& weights_;
};

LayerWeights import_layer(const ModelConfig& config, int layer, Importer& import) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string mamba = prefix + "mamba.";
  const std::string mlp = prefix + "moe.experts.0.";
  const int hidden = config.hidden_size;
  const int inner = config.inner_size;
  const bool per_head = config.kq_norm == KqNorm::kPerheadRms;

  LayerWeights w;
  w.input_norm = import.vector(prefix + "input_layernorm.weight", hidden);
  w.in_proj = import.matrix(mamba + "in_proj.weight", config.in_proj_rows(layer), hidden);
  if (config.proj_bias) {
    w.in_proj_bias = import.vector(mamba + "in_proj.bias", config.in_proj_rows(layer));
    w.out_proj_bias = import.vector(mamba + "out_proj.bias", hidden);
  }
  if (config.kq_norm != KqNorm::kNone) {
    w.q_norm = import.head_norm(mamba + "self_attn.q_norm.weight", config.num_heads,
                                config.head_dim, per_head);
    if (config.produces_kv(layer))
      w.k_norm = import.head_norm(mamba + "self_attn.k_norm.weight", config.num_kv_heads,
                                  config.head_dim, per_head);
  }
  w.conv_weight = import.table(mamba + "conv1d.weight", inner, config.conv_width);
  if (config.conv_bias) w.conv_bias = import.vector(mamba + "conv1d.bias", inner);
  w.x_proj =
      import.matrix(mamba + "x_proj.0.weight", config.dt_rank + 2 * config.state_size, inner);
  if (config.inner_layernorms) {
    w.dt_norm = import.vector(mamba + "dt_layernorm.weight", config.dt_rank);
    w.b_norm = import.vector(mamba + "B_layernorm.weight", config.state_size);
    w.c_norm = import.vector(mamba + "C_layernorm.weight", config.state_size);
  }
  w.dt_proj = import.matrix(mamba + "dt_proj.0.weight", inner, config.dt_rank);
  w.dt_bias = import.vector(mamba + "dt_proj.0.bias", inner);
  w.a = import.negative_exp(mamba + "A_log.0", inner, config.state_size);
  w.d = import.vector(mamba + "D.0", inner);
  w.attention_norm = import.vector(mamba + "pre_avg_layernorm1.weight", inner);
  w.mamba_norm = import.vector(mamba + "pre_avg_layernorm2.weight", inner);
  w.out_proj = import.matrix(mamba + "out_proj.weight", hidden, inner);
  w.mlp_norm = import.vector(prefix + "pre_moe_layernorm.weight", hidden);
  w.gate_up = config.mlp_activation == MlpActivation::kSilu
                  ? import.matrix_pair(mlp + "gate_proj.weight", mlp + "up_proj.weight",
                                       config.intermediate_size, hidden)
                  : import.matrix(mlp + "up_proj.weight", config.intermediate_size, hidden);
  w.down = import.matrix(mlp + "down_proj.weight", hidden, config.intermediate_size);
  return w;
}

}  // namespace

Weights import_weights(const ModelConfig& config, const HostTensors& tensors, DType act,
                       Backend& backend, Arena& arena, bool counting, const Progress& progress) {
  Weights weights;
  Importer import(tensors, act, backend, arena, counting, weights);
  const int64_t hidden = config.hidden_size;
  weights.embed_tokens = import.matrix("model.embed_tokens.weight", config.vocab_size, hidden);
  if (config.num_meta_tokens > 0)
    weights.meta_tokens = import.matrix("model.memory_tokens", config.num_meta_tokens, hidden);
  for (int layer = 0; layer < config.num_layers(); ++layer) {
    weights.layers.push_back(import_layer(config, layer, import));
    if (progress) progress((layer + 1.0) / config.num_layers());
  }
  weights.final_norm = import.vector("model.final_layernorm.weight", hidden);
  weights.lm_head = config.tie_word_embeddings
                        ? weights.embed_tokens
                        : import.matrix("lm_head.weight", config.vocab_size, hidden);
  return weights;
}

}  // namespace hymba
