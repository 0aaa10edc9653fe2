import { spawnSync } from "node:child_process";
import { HymbaModel, type SamplingOptions, type Sequence } from "../../lib";
import { DEVICE } from "../helpers/device";

// Random traffic: sequences come, draw tokens in ever other company, and go. What each of them drew
// must be what it draws alone, token by token, and the memory of the device must not grow.

const TOKENS = DEVICE === "cuda" ? 1_000_000 : 20_000;
const MAX_SEQUENCES = 128;
const MAX_LENGTH = 600;
const VOCABULARY = 4096;
/** One in so many sequences is drawn again, alone. */
const CHECKED = DEVICE === "cuda" ? 40 : 20;

/** Numbers from 0 to limit - 1, the same for the same seed. */
function randomIntegers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

interface Text {
  readonly sequence: Sequence;
  readonly prompt: readonly number[];
  readonly sample: SamplingOptions;
  readonly drawn: number[];
}

function usedMebibytes(): number {
  const query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
  return Number(spawnSync("nvidia-smi", query, { encoding: "utf8" }).stdout);
}

test(`${TOKENS} tokens in random company are those drawn alone`, async () => {
  await using model = await HymbaModel.load("models/hymba-tiny", {
    device: DEVICE,
    maxSequences: MAX_SEQUENCES + 1,
    maxContextTokens: MAX_LENGTH + 128,
    // So that a prompt is never cut, and all steps are small ones: docs/kernels.md, "The same bits".
    maxBatchTokens: 256,
  });
  const random = randomIntegers(1);
  const live: Text[] = [];
  const finished: Text[] = [];
  let created = 0;
  let total = 0;

  const arrive = async (): Promise<void> => {
    const arriving: Text[] = [];
    for (let room = 256; live.length + arriving.length < MAX_SEQUENCES && arriving.length < 12;) {
      const prompt = Array.from({ length: 2 + random(40) }, () => random(VOCABULARY));
      room -= prompt.length;
      if (room < 0) break;
      const sample = { temperature: 0.5 + random(100) / 100, seed: ++created };
      arriving.push({ sequence: model.createSequence(), prompt, sample, drawn: [] });
    }
    if (arriving.length === 0) return;
    const results = await model.prefill(
      arriving.map(({ sequence, prompt, sample }) => ({ sequence, tokens: prompt, sample })),
    );
    for (const [i, { token }] of results.entries()) arriving[i]!.drawn.push(token!);
    live.push(...arriving);
  };

  const drawSome = async (): Promise<void> => {
    const chosen = live.filter(() => random(8) > 0);
    if (chosen.length === 0) return;
    const requests = chosen.map(({ sequence, drawn, sample }) => {
      return { sequence, token: drawn.at(-1)!, sample };
    });
    for await (const results of model.draw(requests, 1 + random(32), { ahead: true })) {
      for (const [i, { token }] of results.entries()) chosen[i]!.drawn.push(token!);
      total += results.length;
    }
  };

  const leave = (): void => {
    for (let i = live.length - 1; i >= 0; i--) {
      const text = live[i]!;
      if (random(12) > 0 && text.sequence.length < MAX_LENGTH) continue;
      text.sequence.dispose();
      live.splice(i, 1);
      finished.push(text);
    }
  };

  let before: number | undefined;
  while (total < TOKENS) {
    await arrive();
    await drawSome();
    leave();
    if (DEVICE === "cuda" && total > TOKENS / 10) before ??= usedMebibytes();
  }
  for (const { sequence } of live) sequence.dispose();
  if (before !== undefined) expect(usedMebibytes()).toBeLessThanOrEqual(before);

  let compared = 0;
  for (const { prompt, sample, drawn } of finished.filter((_, i) => i % CHECKED === 0)) {
    using sequence = model.createSequence();
    const [first] = await model.prefill([{ sequence, tokens: prompt, sample }]);
    const alone = [first!.token!];
    const request = { sequence, token: first!.token!, sample };
    for await (const [result] of model.draw([request], drawn.length - 1, { ahead: true })) {
      alone.push(result!.token!);
    }
    expect(alone).toEqual(drawn);
    compared += drawn.length;
  }
  console.log(
    `${total} tokens of ${created} sequences drawn, ${compared} of them drawn again alone`,
  );
  expect(compared).toBeGreaterThan(100);
});
