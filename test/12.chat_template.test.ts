import { HymbaError } from "../lib/errors";
import { applyChatTemplate, type ChatMessage } from "../lib/text/chat_template";

const template = `{{ bos_token }}{% for message in messages %}
{%- if message.role not in ["system", "user", "assistant"] %}
{{- raise_exception("unknown role " + message.role) }}
{%- endif %}
<|{{ message.role }}|>
{{ message.content }}{{ eos_token }}
{% endfor %}
{%- if tools %}tools: {{ tools | tojson }}
{% endif %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}`;

const conversation: readonly ChatMessage[] = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hi <b> & 'you'" },
];

function failure(action: () => unknown): unknown {
  try {
    return action();
  } catch (error) {
    return error;
  }
}

describe("applyChatTemplate", () => {
  test("renders the conversation and opens the answer", () => {
    expect(applyChatTemplate(template, conversation, { bosToken: "<s>", eosToken: "</s>" })).toBe(
      "<s><|system|>\nBe brief.</s>\n<|user|>\nHi <b> & 'you'</s>\n<|assistant|>\n",
    );
  });

  test("special tokens that the model does not have are empty, the answer can stay closed", () => {
    expect(applyChatTemplate(template, conversation.slice(1), { addGenerationPrompt: false })).toBe(
      "<|user|>\nHi <b> & 'you'\n",
    );
  });

  test("passes tools, further variables and further fields of messages on", () => {
    const tools = [{ name: "clock" }];
    expect(applyChatTemplate(template, conversation, { tools })).toContain(
      'tools: [{"name": "clock"}]',
    );
    expect(
      applyChatTemplate(
        "{{ messages[0].name }} {{ date }}",
        [{ role: "user", content: "", name: "Ada" }],
        {
          extra: { date: "today", messages: "not these" },
        },
      ),
    ).toBe("Ada today");
  });

  test("blocks swallow their line, as in Hugging Face's templates", () => {
    expect(applyChatTemplate("a\n  {% if true %}\nb\n  {% endif %}\nc", conversation)).toBe(
      "a\nb\nc",
    );
  });

  test("a model without a template says so", () => {
    const error = failure(() => applyChatTemplate(undefined, conversation));
    expect(error).toBeInstanceOf(HymbaError);
    expect(error).toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      message: expect.stringMatching(/no chat template: pass one/),
    });
  });

  test("what the template refuses is the caller's error, with the template's words", () => {
    expect(
      failure(() => applyChatTemplate(template, [{ role: "judge", content: "" }])),
    ).toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(/refuses.*unknown role judge/),
    });
  });

  test.each([
    ["does not parse", "{% if %}"],
    ["fails while rendering", "{{ missing() }}"],
  ])("a template that %s is the model's error", (_, broken) => {
    expect(failure(() => applyChatTemplate(broken, conversation))).toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      cause: expect.any(Error),
    });
  });

  test.each<[string, unknown, RegExp]>([
    ["nothing", undefined, /messages must be .*undefined/],
    ["no message", [], /empty/],
    ["a hole", [null], /messages\[0\]\.role/],
    ["a role that is not text", [{ role: 1, content: "" }], /messages\[0\]\.role .*number/],
    ["no content", [conversation[0], { role: "user" }], /messages\[1\]\.content .*undefined/],
    ["null content", [{ role: "user", content: null }], /content .*null/],
  ])("refuses %s", (_, messages, message) => {
    expect(failure(() => applyChatTemplate(template, messages as ChatMessage[]))).toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(message),
    });
  });
});
