#include "addon/sample_wrap.h"

#include <cstdint>
#include <vector>

#include "addon/convert.h"
#include "addon/error_js.h"
#include "addon/make_backend.h"
#include "core/error.h"
#include "ops/ops.h"

namespace hymba {
namespace {

constexpr int kNumThreads = 2;  // one more than is needed to notice when rows are not independent

template <typename T>
TensorView vector_view(std::vector<T>& values, DType dtype) {
  return TensorView(values.data(), dtype, {static_cast<int64_t>(values.size())});
}

// The spans of one call of count_tokens: span s belongs to slot s.
struct CountedSpans {
  std::vector<int32_t> tokens;
  std::vector<int32_t> offsets{0};
  std::vector<int32_t> slots;

  void add(const Napi::Value& list) {
    if (list.IsArray()) {
      const auto array = list.As<Napi::Array>();
      for (uint32_t i = 0; i < array.Length(); ++i)
        tokens.push_back(array.Get(i).As<Napi::Number>().Int32Value());
    }
    offsets.push_back(static_cast<int32_t>(tokens.size()));
    slots.push_back(static_cast<int32_t>(slots.size()));
  }

  void count(Backend& backend, bool are_generated, const TensorView& history) {
    std::vector<int32_t> is_generated(slots.size(), are_generated);
    std::vector<int32_t> fresh(slots.size(), !are_generated);
    backend.count_tokens({.token_ids = vector_view(tokens, DType::kI32),
                          .span_offsets = vector_view(offsets, DType::kI32),
                          .state_slot = vector_view(slots, DType::kI32),
                          .is_generated = vector_view(is_generated, DType::kI32),
                          .fresh = vector_view(fresh, DType::kI32),
                          .history = history});
  }
};

// Everything that the rows say. Row k has slot k of the history.
struct SampleRequest {
  std::vector<SamplingRow> rows;
  std::vector<int32_t> bias_tokens;
  std::vector<float> bias_values;
  CountedSpans prompt;
  CountedSpans generated;
};

SampleRequest request_from_js(const Napi::Array& rows) {
  SampleRequest request;
  for (uint32_t i = 0; i < rows.Length(); ++i) {
    const auto object = rows.Get(i).As<Napi::Object>();
    const SamplingRequest sampling = sampling_from_js(object);
    SamplingRow row = sampling.row;
    row.position = object.Get("position").As<Napi::Number>().Int32Value();
    row.state_slot = static_cast<int32_t>(i);
    row.bias_begin = static_cast<int32_t>(request.bias_tokens.size());
    request.bias_tokens.insert(request.bias_tokens.end(), sampling.bias_tokens.begin(),
                               sampling.bias_tokens.end());
    request.bias_values.insert(request.bias_values.end(), sampling.bias_values.begin(),
                               sampling.bias_values.end());
    row.bias_end = static_cast<int32_t>(request.bias_tokens.size());
    request.rows.push_back(row);

    const Napi::Value history = object.Get("historyTokens");
    const auto tokens =
        history.IsObject() ? history.As<Napi::Object>() : Napi::Object::New(rows.Env());
    request.prompt.add(tokens.Get("prompt"));
    request.generated.add(tokens.Get("generated"));
  }
  return request;
}

Napi::Value run_sample(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto options = info[0].As<Napi::Object>();
  auto logits = options.Get("logits").As<Napi::Float32Array>();
  const int64_t vocab_size = options.Get("vocabSize").As<Napi::Number>().Int64Value();
  SampleRequest request = request_from_js(options.Get("rows").As<Napi::Array>());
  const int64_t num_rows = static_cast<int64_t>(request.rows.size());
  if (num_rows < 1 || vocab_size < 1 ||
      static_cast<int64_t>(logits.ElementLength()) != num_rows * vocab_size)
    fail(ErrorCode::kInvalidArgument, "sample: ", logits.ElementLength(), " logits, expected ",
         num_rows, " rows of ", vocab_size);

  const std::unique_ptr<Backend> backend = make_backend("cpu", kNumThreads);
  // Not zeros: that a fresh slot forgets what it held is up to count_tokens.
  std::vector<uint16_t> seen(num_rows * vocab_size, 0xffff);
  const TensorView history(seen.data(), DType::kU16, {num_rows, vocab_size});
  request.prompt.count(*backend, false, history);
  request.generated.count(*backend, true, history);

  auto tokens = Napi::Int32Array::New(env, num_rows);
  auto logprobs = Napi::Float32Array::New(env, num_rows);
  auto top_tokens = Napi::Int32Array::New(env, num_rows * kMaxTopLogprobs);
  auto top_logprobs = Napi::Float32Array::New(env, num_rows * kMaxTopLogprobs);
  constexpr int64_t kRowWords = sizeof(SamplingRow) / sizeof(int32_t);
  backend->sample(
      {.logits = TensorView(logits.Data(), DType::kF32, {num_rows, vocab_size}),
       .rows = TensorView(request.rows.data(), DType::kI32, {num_rows, kRowWords}),
       .bias_tokens = vector_view(request.bias_tokens, DType::kI32),
       .bias_values = vector_view(request.bias_values, DType::kF32),
       .history = history,
       .token = TensorView(tokens.Data(), DType::kI32, {num_rows}),
       .logprob = TensorView(logprobs.Data(), DType::kF32, {num_rows}),
       .top_tokens = TensorView(top_tokens.Data(), DType::kI32, {num_rows, kMaxTopLogprobs}),
       .top_logprobs = TensorView(top_logprobs.Data(), DType::kF32, {num_rows, kMaxTopLogprobs})});
  backend->synchronize();

  auto result = Napi::Object::New(env);
  result.Set("tokens", tokens);
  result.Set("logprobs", logprobs);
  result.Set("topTokens", top_tokens);
  result.Set("topLogprobs", top_logprobs);
  return result;
}

}  // namespace

void init_sample_wrap(Napi::Env env, Napi::Object kernels) {
  kernels.Set("sample", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return guarded(info.Env(), [&] { return run_sample(info); });
              }));
}

}  // namespace hymba
