#include "addon/convert.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "model/workspace.h"

namespace hymba {
namespace {

int get_int(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int32Value();
}
int64_t get_int64(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int64Value();
}
double get_double(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().DoubleValue();
}
bool get_bool(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Boolean>().Value();
}
std::string get_string(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::String>().Utf8Value();
}

// The enumerator whose name in TypeScript is `name`; enumerators count from zero in the order of
// the names.
template <typename Enum, size_t N>
Enum to_enum(const std::string& name, const std::array<std::string_view, N>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) fail(ErrorCode::kInvalidArgument, "unknown name \"", name, "\"");
  return static_cast<Enum>(found - names.begin());
}

std::vector<int32_t> ints_from_js(const Napi::Value& value) {
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

Napi::Value floats_to_js(Napi::Env env, const std::vector<float>& values) {
  auto array = Napi::Float32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Value ints_to_js(Napi::Env env, const std::vector<int32_t>& values) {
  auto array = Napi::Int32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

RopeConfig rope_from_js(const Napi::Object& object) {
  return {.type = to_enum<RopeType>(
              get_string(object, "type"),
              std::array<std::string_view, 4>{"none", "default", "ntk", "dynamic_ntk"}),
          .theta = get_double(object, "theta"),
          .max_positions = get_int(object, "maxPositions"),
          .original_max_positions = get_int(object, "originalMaxPositions")};
}

ModelConfig config_from_js(const Napi::Object& object) {
  ModelConfig config{
      .hidden_size = get_int(object, "hiddenSize"),
      .num_heads = get_int(object, "numHeads"),
      .num_kv_heads = get_int(object, "numKvHeads"),
      .head_dim = get_int(object, "headDim"),
      .value_head_dim = get_int(object, "valueHeadDim"),
      .inner_size = get_int(object, "innerSize"),
      .state_size = get_int(object, "stateSize"),
      .conv_width = get_int(object, "convWidth"),
      .dt_rank = get_int(object, "dtRank"),
      .intermediate_size = get_int(object, "intermediateSize"),
      .vocab_size = get_int(object, "vocabSize"),
      .num_meta_tokens = get_int(object, "numMetaTokens"),
      .sliding_window = get_int(object, "slidingWindow"),
      .mlp_activation = to_enum<MlpActivation>(get_string(object, "mlpActivation"),
                                               std::array<std::string_view, 2>{"silu", "relu2"}),
      .kq_norm = to_enum<KqNorm>(get_string(object, "kqNorm"),
                                 std::array<std::string_view, 3>{"none", "rms", "perhead-rms"}),
      .rope = rope_from_js(object.Get("rope").As<Napi::Object>()),
      .rms_norm_eps = static_cast<float>(get_double(object, "rmsNormEps")),
      .tie_word_embeddings = get_bool(object, "tieWordEmbeddings"),
      .conv_bias = get_bool(object, "convBias"),
      .proj_bias = get_bool(object, "projBias"),
      .inner_layernorms = get_bool(object, "innerLayernorms"),
      .layers = {}};
  const auto layers = object.Get("layers").As<Napi::Array>();
  for (uint32_t i = 0; i < layers.Length(); ++i) {
    const auto layer = layers.Get(i).As<Napi::Object>();
    config.layers.push_back({.global_attention = get_string(layer, "attention") == "global",
                             .kv_producer = get_int(layer, "kvProducer")});
  }
  return config;
}

TensorEntry tensor_from_js(const Napi::Object& object) {
  TensorEntry entry;
  entry.name = get_string(object, "name");
  // DType lists these three in this order.
  entry.dtype = to_enum<DType>(get_string(object, "dtype"),
                               std::array<std::string_view, 3>{"F32", "BF16", "F16"});
  const auto shape = object.Get("shape").As<Napi::Array>();
  for (uint32_t i = 0; i < shape.Length(); ++i)
    entry.shape.push_back(shape.Get(i).As<Napi::Number>().Int64Value());
  const auto source = object.Get("source").As<Napi::Object>();
  if (get_string(source, "kind") == "file") {
    entry.file = get_int(source, "file");
    entry.begin = static_cast<uint64_t>(get_int64(source, "begin"));
    entry.end = static_cast<uint64_t>(get_int64(source, "end"));
  } else {
    entry.fill = to_enum<SyntheticFill>(
        get_string(source, "fill"),
        std::array<std::string_view, 4>{"normal", "constant", "log_arange", "dt_bias"});
    entry.scale = static_cast<float>(get_double(source, "scale"));
    entry.stream = source.Get("stream").As<Napi::Number>().Uint32Value();
  }
  return entry;
}

SamplingRequest sampling_from_js(const Napi::Object& object) {
  SamplingRequest request;
  bool lossless = false;
  request.row = {.temperature = static_cast<float>(get_double(object, "temperature")),
                 .top_k = get_int(object, "topK"),
                 .top_p = static_cast<float>(get_double(object, "topP")),
                 .min_p = static_cast<float>(get_double(object, "minP")),
                 .repetition_penalty = static_cast<float>(get_double(object, "repetitionPenalty")),
                 .presence_penalty = static_cast<float>(get_double(object, "presencePenalty")),
                 .frequency_penalty = static_cast<float>(get_double(object, "frequencyPenalty")),
                 .num_top_logprobs = get_int(object, "topLogprobs"),
                 .seed = object.Get("seed").As<Napi::BigInt>().Uint64Value(&lossless)};
  request.bias_tokens = ints_from_js(object.Get("biasTokens"));
  const auto values = object.Get("biasValues").As<Napi::Float32Array>();
  request.bias_values = {values.Data(), values.Data() + values.ElementLength()};
  const Napi::Value mask = object.Get("tokenMask");
  if (mask.IsTypedArray()) {
    const auto words = mask.As<Napi::Uint32Array>();
    request.mask = {words.Data(), words.Data() + words.ElementLength()};
  }
  return request;
}

SpanInput span_from_js(const Napi::Object& object) {
  SpanInput span;
  span.sequence = get_int64(object, "sequence");
  span.tokens = ints_from_js(object.Get("tokens"));
  span.generated = get_bool(object, "generated");
  span.logits = to_enum<LogitsWanted>(get_string(object, "logits"),
                                      std::array<std::string_view, 3>{"none", "last", "all"});
  const Napi::Value sampling = object.Get("sampling");
  if (sampling.IsObject()) span.sampling = sampling_from_js(sampling.As<Napi::Object>());
  const Napi::Value targets = object.Get("targets");
  if (targets.IsTypedArray()) {
    span.targets = ints_from_js(targets);
    span.num_target_tops = get_int(object, "targetTops");
  }
  return span;
}

Napi::Value to_js(Napi::Env env, const SpanOutput& output) {
  auto object = Napi::Object::New(env);
  if (!output.logits.empty()) object.Set("logits", floats_to_js(env, output.logits));
  if (output.sampled) {
    object.Set("token", Napi::Number::New(env, output.sampled->token));
    object.Set("logprob", Napi::Number::New(env, output.sampled->logprob));
    object.Set("topTokens", ints_to_js(env, output.sampled->top_tokens));
    object.Set("topLogprobs", floats_to_js(env, output.sampled->top_logprobs));
  }
  if (!output.target_logprobs.empty()) {
    object.Set("targetLogprobs", floats_to_js(env, output.target_logprobs));
    object.Set("targetTopTokens", ints_to_js(env, output.target_top_tokens));
    object.Set("targetTopLogprobs", floats_to_js(env, output.target_top_logprobs));
  }
  return object;
}

Napi::Value to_js(Napi::Env env, const PoolUsage& usage) {
  auto object = Napi::Object::New(env);
  object.Set("used", Napi::Number::New(env, usage.used));
  object.Set("kept", Napi::Number::New(env, usage.kept));
  object.Set("total", Napi::Number::New(env, usage.total));
  return object;
}

Napi::Value to_js(Napi::Env env, const TraceTensor& tensor) {
  auto object = Napi::Object::New(env);
  object.Set("layer", Napi::Number::New(env, tensor.layer));
  object.Set("name", Napi::String::New(env, tensor.name));
  auto shape = Napi::Array::New(env, tensor.shape.size());
  for (uint32_t i = 0; i < tensor.shape.size(); ++i)
    shape.Set(i, Napi::Number::New(env, static_cast<double>(tensor.shape[i])));
  object.Set("shape", shape);
  object.Set("values", floats_to_js(env, tensor.values));
  return object;
}

template <typename T>
Napi::Value array_to_js(Napi::Env env, const std::vector<T>& items) {
  auto array = Napi::Array::New(env, items.size());
  for (uint32_t i = 0; i < items.size(); ++i) array.Set(i, to_js(env, items[i]));
  return array;
}

}  // namespace

LoadRequest load_request_from_js(const Napi::Object& object) {
  LoadRequest request;
  request.config = config_from_js(object.Get("config").As<Napi::Object>());
  request.options = {.dtype = get_string(object, "dtype") == "float32" ? DType::kF32 : DType::kBF16,
                     .max_sequences = get_int(object, "maxSequences"),
                     .max_context_tokens = get_int(object, "maxContextTokens"),
                     .max_batch_tokens = get_int(object, "maxBatchTokens"),
                     .cache_tokens = get_int64(object, "cacheTokens"),
                     .prefix_cache_bytes = get_int64(object, "prefixCacheBytes")};
  const auto files = object.Get("files").As<Napi::Array>();
  for (uint32_t i = 0; i < files.Length(); ++i)
    request.table.files.push_back(files.Get(i).As<Napi::String>().Utf8Value());
  const auto tensors = object.Get("tensors").As<Napi::Array>();
  for (uint32_t i = 0; i < tensors.Length(); ++i)
    request.table.tensors.push_back(tensor_from_js(tensors.Get(i).As<Napi::Object>()));
  request.table.seed = static_cast<uint64_t>(get_int64(object, "seed"));
  request.device = get_string(object, "device");
  request.num_threads = get_int(object, "threads");
  return request;
}

std::vector<SpanInput> spans_from_js(const Napi::Array& array) {
  std::vector<SpanInput> spans;
  for (uint32_t i = 0; i < array.Length(); ++i)
    spans.push_back(span_from_js(array.Get(i).As<Napi::Object>()));
  return spans;
}

Napi::Value to_js(Napi::Env env, const std::vector<SpanOutput>& outputs) {
  return array_to_js(env, outputs);
}

Napi::Value to_js(Napi::Env env, const std::vector<TraceTensor>& tensors) {
  return array_to_js(env, tensors);
}

Napi::Value to_js(Napi::Env env, const CacheUsage& usage) {
  auto object = Napi::Object::New(env);
  object.Set("sequences", to_js(env, usage.sequences));
  object.Set("stateSlots", to_js(env, usage.state_slots));
  object.Set("globalPages", to_js(env, usage.global_pages));
  object.Set("windowPages", to_js(env, usage.window_pages));
  return object;
}

Napi::Value to_js(Napi::Env env, const std::optional<DeviceRoom>& room) {
  if (!room) return env.Null();
  auto object = Napi::Object::New(env);
  object.Set("totalBytes", static_cast<double>(room->total_bytes));
  object.Set("freeBytes", static_cast<double>(room->free_bytes));
  object.Set("availableBytes", static_cast<double>(room->available_bytes));
  return object;
}

Napi::Value to_js(Napi::Env env, const MemoryPlan& plan, const KvLayout& layout) {
  auto object = Napi::Object::New(env);
  const auto set = [&](const char* name, auto value) {
    object.Set(name, Napi::Number::New(env, static_cast<double>(value)));
  };
  const int context_tokens = layout.options.max_context_tokens;
  const SequenceBytes sequence = layout.bytes_per_sequence(context_tokens);
  set("weightsBytes", plan.weight_bytes);
  set("cacheBytes", plan.cache_bytes);
  set("workspaceBytes", plan.workspace_bytes);
  set("contextTokens", context_tokens);
  set("globalKvBytes", sequence.global_kv);
  set("globalKvPageBytes", sequence.global_kv_pages);
  set("windowKvBytes", sequence.window_kv);
  set("windowKvPageBytes", sequence.window_kv_pages);
  set("ssmStateBytes", sequence.ssm);
  set("convStateBytes", sequence.conv);
  set("metaKvBytes", layout.meta_kv_bytes);
  set("snapshotBytes", layout.snapshot_bytes);
  set("maxPrefillSpans", layout.max_prefill_spans);
  set("maxLogitBias", kMaxLogitBias);
  return object;
}

}  // namespace hymba
