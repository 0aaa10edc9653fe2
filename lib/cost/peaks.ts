/** What a GPU can compute at most, from its data sheet. */
export interface Peak {
  /** Operations a second of dense bf16 matrix products with fp32 sums. */
  readonly bfloat16Flops: number;
  /** Operations a second of fp32 arithmetic. */
  readonly float32Flops: number;
  /** Exponentials a second: 16 a clock on every multiprocessor. */
  readonly exponentials: number;
}

function peak(bfloat16: number, float32: number, multiprocessors: number, ghz: number): Peak {
  return {
    bfloat16Flops: bfloat16 * 1e12,
    float32Flops: float32 * 1e12,
    exponentials: multiprocessors * 16 * ghz * 1e9,
  };
}

/** The first that matches the driver's name of the GPU. */
const PEAKS: readonly (readonly [RegExp, Peak])[] = [
  [/H100 PCIe/, peak(756, 51, 114, 1.62)],
  [/H100 NVL/, peak(835, 60, 132, 1.6)],
  [/H100|H200|GH200/, peak(989, 67, 132, 1.83)],
  [/A100/, peak(312, 19.5, 108, 1.41)],
  [/A10\b/, peak(125, 31.2, 72, 1.7)],
  [/L40S/, peak(362, 91.6, 142, 2.52)],
  [/L4\b/, peak(121, 30.3, 58, 2.04)],
  [/RTX 4090/, peak(165, 82.6, 128, 2.52)],
];

/** What is known of a GPU by this name; undefined: nothing. */
export function devicePeak(name: string): Peak | undefined {
  return PEAKS.find(([pattern]) => pattern.test(name))?.[1];
}
