// What others reach: measured on one NVIDIA H100 80GB HBM3, on another day than the rows beside them
// (docs/kernels.md, "Whole steps").

/** The only device that these numbers are compared with. */
export const REFERENCE_DEVICE = "NVIDIA H100 80GB HBM3";

/** Hymba-1.5B in PyTorch: `torch.compile`, static caches, a CUDA graph a step. */
export const COMPILED_DECODE = [
  { context: 1024, batch: 1, tokensPerSecond: 314 },
  { context: 1024, batch: 128, tokensPerSecond: 14_360 },
  { context: 8192, batch: 128, tokensPerSecond: 11_170 },
];

/** The code that was published with Hymba-1.5B, with the kernels of `mamba_ssm`; one prompt. */
export const PUBLISHED_PREFILL = [{ tokens: 8192, tokensPerSecond: 42_000 }];

/** Qwen2.5-1.5B in transformers; one prompt. */
export const QWEN_PREFILL = [{ tokens: 8192, tokensPerSecond: 119_500 }];

/**
 * Worked out: Hymba-1.5B if its matrix products and attention ran at 800 TFLOP/s, about what the
 * tensor cores sustain, and nothing else took time; one prompt.
 */
export const LIMIT_PREFILL = [
  { tokens: 1024, tokensPerSecond: 255_000 },
  { tokens: 2048, tokensPerSecond: 248_000 },
  { tokens: 8192, tokensPerSecond: 238_000 },
];
