#include "addon/cache_wrap.h"

#include <initializer_list>
#include <span>
#include <vector>

#include "addon/error_js.h"
#include "cache/kv_layout.h"
#include "cache/refcount_pool.h"
#include "cache/sequence_table.h"
#include "core/error.h"

namespace hymba {
namespace {

template <typename Body>
Napi::Value number(const Napi::CallbackInfo& info, const Body& body) {
  return Napi::Number::New(info.Env(), static_cast<double>(guarded(info.Env(), body)));
}

int get_int(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int32Value();
}

int64_t get_int64(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int64Value();
}

KvLayoutOptions to_layout_options(const Napi::Object& object) {
  KvLayoutOptions options;
  const auto layers = object.Get("layers").As<Napi::Array>();
  for (uint32_t i = 0; i < layers.Length(); ++i) {
    const auto layer = layers.Get(i).As<Napi::Object>();
    options.layers.push_back(
        {layer.Get("global").As<Napi::Boolean>().Value(), get_int(layer, "kvProducer")});
  }
  options.num_meta_tokens = get_int(object, "numMetaTokens");
  options.sliding_window = get_int(object, "slidingWindow");
  options.num_kv_heads = get_int(object, "numKvHeads");
  options.head_dim = get_int(object, "headDim");
  options.value_head_dim = get_int(object, "valueHeadDim");
  options.inner_size = get_int(object, "innerSize");
  options.state_size = get_int(object, "stateSize");
  options.conv_width = get_int(object, "convWidth");
  options.kv_element_bytes = static_cast<size_t>(get_int64(object, "kvElementBytes"));
  options.act_element_bytes = static_cast<size_t>(get_int64(object, "actElementBytes"));
  options.max_sequences = get_int(object, "maxSequences");
  options.max_context_tokens = get_int(object, "maxContextTokens");
  options.max_batch_tokens = get_int(object, "maxBatchTokens");
  options.cache_tokens = get_int64(object, "cacheTokens");
  options.prefix_cache_bytes = get_int64(object, "prefixCacheBytes");
  return options;
}

struct Field {
  template <typename Number>
  Field(const char* name, Number value) : name(name), value(static_cast<double>(value)) {}
  const char* name;
  double value;
};

Napi::Object to_js(Napi::Env env, std::initializer_list<Field> fields) {
  Napi::Object object = Napi::Object::New(env);
  for (const Field& field : fields) object.Set(field.name, field.value);
  return object;
}

Napi::Object to_js(Napi::Env env, const KvPoolLayout& pool) {
  return to_js(env, {{"numLayers", pool.num_layers},
                     {"metaColumns", pool.meta_columns},
                     {"ringColumns", pool.ring_columns},
                     {"numPages", pool.num_pages},
                     {"pageBytes", pool.page_bytes},
                     {"bytes", pool.bytes()}});
}

Napi::Object to_js(Napi::Env env, const KvLayer& layer) {
  Napi::Object object = to_js(env, {{"poolIdx", layer.pool_idx}, {"window", layer.window}});
  object.Set("pool", layer.pool == KvPool::kGlobal ? "global" : "window");
  object.Set("isProducer", layer.is_producer);
  return object;
}

Napi::Object to_js(Napi::Env env, const KvLayout& layout) {
  Napi::Object object = to_js(env, {{"windowRingPages", layout.window_ring_pages},
                                    {"numReservedSnapshots", layout.num_reserved_snapshots},
                                    {"snapshotBytes", layout.snapshot_bytes},
                                    {"maxPrefillSpans", layout.max_prefill_spans},
                                    {"numStateSlots", layout.num_state_slots},
                                    {"ssmSlotBytes", layout.ssm_slot_bytes},
                                    {"convSlotBytes", layout.conv_slot_bytes},
                                    {"stateBytes", layout.state_bytes},
                                    {"metaKvBytes", layout.meta_kv_bytes},
                                    {"metaKvPageBytes", layout.meta_kv_page_bytes}});
  Napi::Array layers = Napi::Array::New(env, layout.layers.size());
  for (uint32_t i = 0; i < layout.layers.size(); ++i) layers.Set(i, to_js(env, layout.layers[i]));
  object.Set("layers", layers);
  object.Set("global", to_js(env, layout.pools.global));
  object.Set("window", to_js(env, layout.pools.window));
  return object;
}

Napi::Object to_js(Napi::Env env, const SequenceBytes& bytes) {
  return to_js(env, {{"globalKv", bytes.global_kv},
                     {"globalKvPages", bytes.global_kv_pages},
                     {"windowKv", bytes.window_kv},
                     {"windowKvPages", bytes.window_kv_pages},
                     {"ssm", bytes.ssm},
                     {"conv", bytes.conv}});
}

Napi::Object to_js(Napi::Env env, const PoolUsage& usage) {
  return to_js(env, {{"used", usage.used}, {"kept", usage.kept}, {"total", usage.total}});
}

// A KvLayout and the SequenceTable over it.
class CacheLedger : public Napi::ObjectWrap<CacheLedger> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "CacheLedger",
                       {
                           InstanceMethod<&CacheLedger::layout>("layout"),
                           InstanceMethod<&CacheLedger::bytes_per_sequence>("bytesPerSequence"),
                           InstanceMethod<&CacheLedger::create>("create"),
                           InstanceMethod<&CacheLedger::create_cold>("createCold"),
                           InstanceMethod<&CacheLedger::adopt_prefix>("adoptPrefix"),
                           InstanceMethod<&CacheLedger::release>("release"),
                           InstanceMethod<&CacheLedger::snapshot>("snapshot"),
                           InstanceMethod<&CacheLedger::retire>("retire"),
                           InstanceMethod<&CacheLedger::resume>("resume"),
                           InstanceMethod<&CacheLedger::is_snapshot>("isSnapshot"),
                           InstanceMethod<&CacheLedger::take_copies>("takeCopies"),
                           InstanceMethod<&CacheLedger::create_at>("createAt"),
                           InstanceMethod<&CacheLedger::holdings>("holdings"),
                           InstanceMethod<&CacheLedger::own_pages>("ownPages"),
                           InstanceMethod<&CacheLedger::length>("length"),
                           InstanceMethod<&CacheLedger::position>("position"),
                           InstanceMethod<&CacheLedger::begin_step>("beginStep"),
                           InstanceMethod<&CacheLedger::tables>("tables"),
                           InstanceMethod<&CacheLedger::end_step>("endStep"),
                           InstanceMethod<&CacheLedger::cancel_step>("cancelStep"),
                           InstanceMethod<&CacheLedger::usage>("usage"),
                       });
  }

  explicit CacheLedger(const Napi::CallbackInfo& info)
      : ObjectWrap(info),
        layout_(guarded(info.Env(),
                        [&] { return KvLayout(to_layout_options(info[0].As<Napi::Object>())); })),
        table_(layout_) {}

 private:
  Napi::Value layout(const Napi::CallbackInfo& info) { return to_js(info.Env(), layout_); }

  Napi::Value bytes_per_sequence(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const int64_t context_tokens = info[0].As<Napi::Number>().Int64Value();
      return to_js(info.Env(), layout_.bytes_per_sequence(context_tokens));
    });
  }

  Napi::Value create(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.create(); });
  }

  Napi::Value create_cold(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.create_cold(); });
  }

  void adopt_prefix(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { table_.adopt_prefix(sequence_id(info)); });
  }

  void release(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { table_.release(sequence_id(info)); });
  }

  // -1: there was no room.
  Napi::Value snapshot(const Napi::CallbackInfo& info) {
    return number(info, [&] {
      return table_.snapshot(sequence_id(info), info[1].As<Napi::Boolean>().Value()).value_or(-1);
    });
  }

  void retire(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { table_.retire(sequence_id(info)); });
  }

  Napi::Value resume(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.resume(sequence_id(info)); });
  }

  Napi::Value is_snapshot(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), table_.is_snapshot(sequence_id(info)));
  }

  Napi::Value take_copies(const Napi::CallbackInfo& info) {
    const CacheCopies copies = table_.take_copies();
    const auto list = [&](const std::vector<CacheCopies::Copy>& all) {
      Napi::Array array = Napi::Array::New(info.Env(), all.size());
      for (uint32_t i = 0; i < all.size(); ++i)
        array.Set(i, to_js(info.Env(), {{"from", all[i].from}, {"to", all[i].to}}));
      return array;
    };
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("global", list(copies.pages.global));
    object.Set("window", list(copies.pages.window));
    object.Set("slots", list(copies.slots));
    return object;
  }

  Napi::Value create_at(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.create_at(info[0].As<Napi::Number>().Int32Value()); });
  }

  Napi::Value holdings(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const SequenceHoldings held = table_.holdings(sequence_id(info));
      Napi::Object object = to_js(info.Env(), {{"slot", held.state_slot}});
      for (KvPool pool : kKvPools) {
        Napi::Array pages = Napi::Array::New(info.Env(), held.pages[pool].size());
        for (uint32_t i = 0; i < pages.Length(); ++i) pages.Set(i, held.pages[pool][i]);
        object.Set(pool == KvPool::kGlobal ? "global" : "window", pages);
      }
      return object;
    });
  }

  Napi::Value own_pages(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.own_pages(sequence_id(info)); });
  }

  Napi::Value length(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.length(sequence_id(info)); });
  }

  Napi::Value position(const Napi::CallbackInfo& info) {
    return number(info, [&] { return table_.position(sequence_id(info)); });
  }

  // beginStep([{ id, numTokens, generated }, …])
  void begin_step(const Napi::CallbackInfo& info) {
    std::vector<SpanRequest> requests;
    size_t num_tokens = 0;
    const auto array = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) {
      const auto request = array.Get(i).As<Napi::Object>();
      requests.push_back({get_int64(request, "id"), get_int(request, "numTokens"),
                          request.Get("generated").As<Napi::Boolean>().Value()});
      num_tokens += requests.back().num_tokens;
    }
    guarded(info.Env(), [&] { table_.begin_step(requests); });
    num_tokens_ = num_tokens;
    num_spans_ = requests.size();
  }

  // Of the step that is open; each call fills new arrays.
  Napi::Value tables(const Napi::CallbackInfo& info) {
    Napi::Object object = Napi::Object::New(info.Env());
    const auto array = [&](const char* name, size_t size) -> std::span<int32_t> {
      Napi::Int32Array elements = Napi::Int32Array::New(info.Env(), size);
      object.Set(name, elements);
      return {elements.Data(), size};
    };
    StepTables tables;
    tables.positions = array("positions", num_tokens_);
    tables.token_spans = array("tokenSpans", num_tokens_);
    tables.span_offsets = array("spanOffsets", num_spans_ + 1);
    tables.state_source = array("stateSource", num_spans_);
    tables.state_slot = array("stateSlot", num_spans_);
    tables.is_generated = array("isGenerated", num_spans_);
    tables.fresh = array("fresh", num_spans_);
    tables.global_pages = array("globalPages", num_spans_ * layout_.pools.global.num_columns());
    tables.window_pages = array("windowPages", num_spans_ * layout_.pools.window.num_columns());
    guarded(info.Env(), [&] { table_.fill(tables); });
    return object;
  }

  void end_step(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { table_.end_step(); });
  }

  void cancel_step(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { table_.cancel_step(); });
  }

  Napi::Value usage(const Napi::CallbackInfo& info) {
    const CacheUsage usage = table_.usage();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("sequences", to_js(info.Env(), usage.sequences));
    object.Set("stateSlots", to_js(info.Env(), usage.state_slots));
    object.Set("globalPages", to_js(info.Env(), usage.global_pages));
    object.Set("windowPages", to_js(info.Env(), usage.window_pages));
    return object;
  }

  static SequenceId sequence_id(const Napi::CallbackInfo& info) {
    return info[0].As<Napi::Number>().Int64Value();
  }

  const KvLayout layout_;
  SequenceTable table_;
  // Of the step begun last.
  size_t num_tokens_ = 0;
  size_t num_spans_ = 0;
};

class RefcountPoolWrap : public Napi::ObjectWrap<RefcountPoolWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "RefcountPool",
                       {
                           InstanceMethod<&RefcountPoolWrap::acquire>("acquire"),
                           InstanceMethod<&RefcountPoolWrap::retain>("retain"),
                           InstanceMethod<&RefcountPoolWrap::release>("release"),
                           InstanceMethod<&RefcountPoolWrap::num_holders>("numHolders"),
                           InstanceMethod<&RefcountPoolWrap::num_free>("numFree"),
                           InstanceMethod<&RefcountPoolWrap::num_used>("numUsed"),
                           InstanceMethod<&RefcountPoolWrap::num_kept>("numKept"),
                       });
  }

  explicit RefcountPoolWrap(const Napi::CallbackInfo& info)
      : ObjectWrap(info),
        pool_(guarded(info.Env(), [&] { return RefcountPool("test unit", id(info)); })) {}

 private:
  Napi::Value acquire(const Napi::CallbackInfo& info) {
    return number(info, [&] { return pool_.acquire(hold(info[0])); });
  }

  void retain(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { pool_.retain(id(info), hold(info[1])); });
  }

  Napi::Value release(const Napi::CallbackInfo& info) {
    const bool freed = guarded(info.Env(), [&] { return pool_.release(id(info), hold(info[1])); });
    return Napi::Boolean::New(info.Env(), freed);
  }

  Napi::Value num_holders(const Napi::CallbackInfo& info) {
    return number(info, [&] { return pool_.num_holders(id(info)); });
  }

  Napi::Value num_free(const Napi::CallbackInfo& info) {
    return number(info, [&] { return pool_.num_free(); });
  }

  Napi::Value num_used(const Napi::CallbackInfo& info) {
    return number(info, [&] { return pool_.num_used(); });
  }

  Napi::Value num_kept(const Napi::CallbackInfo& info) {
    return number(info, [&] { return pool_.num_kept(); });
  }

  static Hold hold(const Napi::Value& value) {
    return value.IsString() && value.As<Napi::String>().Utf8Value() == "keep" ? Hold::kKeep
                                                                              : Hold::kUse;
  }

  static int id(const Napi::CallbackInfo& info) { return info[0].As<Napi::Number>().Int32Value(); }

  RefcountPool pool_;
};

}  // namespace

void init_cache_wrap(Napi::Env env, Napi::Object exports) {
  exports.Set("CacheLedger", CacheLedger::define(env));
  exports.Set("RefcountPool", RefcountPoolWrap::define(env));
}

}  // namespace hymba
