import { createInterface } from "node:readline";
import { Command } from "commander";
import { HymbaError } from "../errors";
import type { HymbaModel, Sequence } from "../model";
import { applyChatTemplate, type ChatMessage } from "../text/chat_template";
import type { CliContext } from "./context";
import { printError } from "./failure";
import { colour } from "./format";
import { readTextFile } from "./input";
import { write, writeJson } from "./io";
import {
  addLoadOptions,
  addSamplingOptions,
  type LoadFlags,
  modelArgument,
  type SamplingFlags,
  samplingOptions,
} from "./options";
import {
  addFormatOptions,
  type FormatFlags,
  type FormatOption,
  readFormat,
} from "./response_format";
import { formatStats, GenerationTimer } from "./timing";
import { Transcript } from "./transcript";
import { withModel } from "./with_model";

interface ChatFlags extends LoadFlags, SamplingFlags, FormatFlags {
  readonly system?: string;
  readonly chatTemplate?: string;
  readonly stats?: boolean;
  readonly json?: boolean;
}

/** For models never taught a conversation: a play script, which any text model continues. */
const PLAIN_TEMPLATE = `{{ bos_token }}
{%- for message in messages %}
{{- message.role | capitalize }}:
{%- if message.role != "assistant" %}{{ " " }}{% endif %}
{{- message.content }}{{ "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "Assistant:" }}{% endif %}`;

/** Where the plain template's next speaker begins. */
const PLAIN_STOPS = ["\nUser:", "\nSystem:"];

const EXAMPLES = `
Lines are turns. /reset begins a new conversation, /exit or the end of the input ends it; Ctrl-C
stops an answer, or the program when it waits for you.

Examples:
  $ hymba chat ./my-model --system "You answer in one sentence."
  $ printf 'Hello.\\nWho are you?\\n' | hymba chat ./my-model --json
  $ hymba chat ./my-model --chat-template my_template.jinja --temperature 0.7
`;

/** `hymba chat`: a conversation in one growing sequence. */
export function chatCommand(context: CliContext): Command {
  const command = new Command("chat")
    .description("Talk to a model. Every turn goes on where the last one ended.")
    .addArgument(modelArgument())
    .option("--system <text>", "instruction that stands before the conversation")
    .option("--chat-template <path>", "Jinja file to use instead of the model's template")
    .option("--stats", "print speed and cache size after every answer, on standard error")
    .option("--json", "print a JSON object a line for every answer");
  return addLoadOptions(addFormatOptions(addSamplingOptions(command)))
    .addHelpText("after", EXAMPLES)
    .action(async (path: string, flags: ChatFlags) => {
      const template =
        flags.chatTemplate === undefined ? undefined : await readTextFile(flags.chatTemplate);
      const format = await readFormat(flags);
      await withModel(context, path, flags, async (model) => {
        const chat = new Chat(context, model, template, format, flags);
        try {
          await chat.talk();
        } finally {
          chat.dispose();
        }
      });
    });
}

class Chat {
  readonly #context: CliContext;
  readonly #model: HymbaModel;
  readonly #flags: ChatFlags;
  readonly #template: string;
  readonly #format: FormatOption;
  readonly #stops: readonly string[];
  /** Aborts the answer that is being generated. */
  #answering: AbortController | undefined;
  #messages: ChatMessage[] = [];
  #sequence: Sequence;
  #transcript: Transcript;

  constructor(
    context: CliContext,
    model: HymbaModel,
    template: string | undefined,
    format: FormatOption,
    flags: ChatFlags,
  ) {
    const chosen = template ?? model.tokenizer.chatTemplate;
    this.#context = context;
    this.#model = model;
    this.#flags = flags;
    this.#format = format;
    this.#template = chosen ?? PLAIN_TEMPLATE;
    this.#stops = [...(chosen === undefined ? PLAIN_STOPS : []), ...(flags.stop ?? [])];
    this.#sequence = model.createSequence();
    this.#transcript = new Transcript(model.tokenizer);
    this.#resetMessages();
    if (chosen === undefined) {
      this.#note("This model has no chat template; turns are written as User: and Assistant:.");
    }
  }

  /** Reads turns until the input ends. */
  async talk(): Promise<void> {
    const { io, signal } = this.#context;
    const interactive = io.stdin.isTTY === true;
    const lines = createInterface({
      input: io.stdin,
      ...(interactive && { output: io.stderr, prompt: "> " }),
      terminal: interactive,
    });
    // On a terminal readline takes Ctrl-C for itself.
    lines.on("SIGINT", () => {
      if (this.#answering) this.#answering.abort();
      else this.#context.interrupt();
    });
    signal.addEventListener("abort", () => lines.close(), { once: true });
    if (interactive) lines.prompt();
    for await (const line of lines) {
      if (signal.aborted || line.trim() === "/exit") break;
      if (line.trim() === "/reset") this.#reset();
      else if (line.trim() !== "") await this.#turn(line, interactive);
      if (interactive) lines.prompt();
    }
    lines.close();
  }

  dispose(): void {
    this.#sequence.dispose();
  }

  async #turn(line: string, interactive: boolean): Promise<void> {
    this.#messages.push({ role: "user", content: line });
    try {
      await this.#answer();
    } catch (error) {
      // At a terminal the user may reset and go on.
      const canGoOn = error instanceof HymbaError && error.code === "ERR_CONTEXT_FULL";
      if (!interactive || !canGoOn) throw error;
      this.#messages.pop();
      printError(this.#context.io, error.message, "/reset begins a new conversation.");
    }
  }

  async #answer(): Promise<void> {
    const { io, signal } = this.#context;
    const { json, stats } = this.#flags;
    const prompt = await this.#nextPrompt();
    const timer = new GenerationTimer();
    this.#answering = new AbortController();
    let content = "";
    let finishReason: string | undefined;
    try {
      const chunks = this.#model.generate({
        ...samplingOptions(this.#flags),
        ...this.#format,
        prompt,
        sequence: this.#sequence,
        stop: this.#stops,
        signal: AbortSignal.any([signal, this.#answering.signal]),
      });
      for await (const chunk of chunks) {
        timer.countToken();
        this.#transcript.addAnswer(chunk.token);
        finishReason = chunk.finishReason;
        // What separates the answer from its mark is part of the text, but not for the eye.
        if (!json)
          await write(io.stdout, content.trim() === "" ? chunk.text.trimStart() : chunk.text);
        content += chunk.text;
      }
    } catch (error) {
      if (!this.#answering.signal.aborted) throw error;
      finishReason = "interrupted";
      // All that was said counts, also what was still held back from the screen.
      content = this.#transcript.answer;
    } finally {
      this.#answering = undefined;
    }
    this.#messages.push({ role: "assistant", content });
    const numbers = timer.stats(this.#model, prompt.length, this.#sequence.length);
    if (json) {
      await writeJson(io.stdout, { role: "assistant", content, finishReason, ...numbers });
    } else {
      await write(io.stdout, "\n");
    }
    if (stats) await write(io.stderr, formatStats(this.#model, numbers));
    if (finishReason === "context") this.#note("The context is full: /reset begins a new one.");
  }

  /** Tokens of the new turn, or of everything when earlier turns have changed. */
  async #nextPrompt(): Promise<readonly number[]> {
    const { tokenizer } = this.#model;
    const rendered = applyChatTemplate(this.#template, this.#messages, {
      bosToken: tokenizer.bosToken,
      eosToken: tokenizer.eosToken,
    });
    const { length } = this.#sequence;
    let tokens = await this.#transcript.tokensUpTo(rendered, length);
    if (tokens === undefined) {
      this.#note("Earlier turns changed; the conversation is read again.");
      this.#newSequence();
      tokens = (await this.#transcript.tokensUpTo(rendered, 0)) ?? [];
    }
    this.#transcript.addPrompt(rendered, tokens, this.#sequence.length);
    return tokens;
  }

  #reset(): void {
    this.#newSequence();
    this.#resetMessages();
    this.#note("New conversation.");
  }

  #newSequence(): void {
    this.#sequence.dispose();
    this.#sequence = this.#model.createSequence();
    this.#transcript = new Transcript(this.#model.tokenizer);
  }

  #resetMessages(): void {
    const { system } = this.#flags;
    this.#messages = system === undefined ? [] : [{ role: "system", content: system }];
  }

  #note(text: string): void {
    const { io } = this.#context;
    io.stderr.write(`${colour(io, io.stderr, "dim", text)}\n`);
  }
}
