import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { NAME, TestServer } from "./helpers/server";

/** Debian's, or another one that the environment names. */
const CHROMIUM = process.env["HYMBA_CHROMIUM"] ?? "/usr/bin/chromium";
const available = existsSync(CHROMIUM);
if (!available) {
  console.warn(`The page is not tested: there is no browser at ${CHROMIUM} (HYMBA_CHROMIUM).`);
}

(available ? describe : describe.skip)("the page, in a browser", () => {
  let server: TestServer;
  let browser: Browser;
  let page: Page;
  /** What the browser complains about, such as a script that the page's policy forbids. */
  const complaints: string[] = [];

  beforeAll(async () => {
    server = await TestServer.start({ apiKeys: ["secret"] });
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
    page = await browser.newPage({ httpCredentials: { username: "", password: "secret" } });
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    await page.goto(server.url);
  });
  afterAll(async () => {
    await browser.close();
    await server.stop();
  });

  const messages = () => page.locator(".message");
  const ask = async (text: string): Promise<void> => {
    await page.locator("#text").fill(text);
    await page.locator("#text").press("Enter");
  };
  const isDone = () => page.getByRole("button", { name: "Send" }).waitFor();

  test("names the model", async () => {
    await page.locator("#model", { hasText: NAME }).waitFor();
    expect(await page.title()).toBe(NAME);
  });

  test("streams a chat, and goes on with it", async () => {
    await page.locator("#tokens").fill("30");
    await ask("Who comes?\nTell me.");
    const answer = messages().nth(1);
    const lengths = new Set<number>();
    while (!/tokens\/s/.test((await page.locator("#numbers").textContent())!)) {
      lengths.add((await answer.textContent())!.length);
    }
    expect(lengths.size).toBeGreaterThan(2);
    await isDone();
    expect(await messages().nth(0).textContent()).toBe("Who comes?\nTell me.");
    const first = Number(/^\d+/.exec((await page.locator("#numbers").textContent())!)![0]);
    await ask("<b>Why?</b>");
    await isDone();
    // The second prompt has all that was said before.
    await page.locator("#numbers", { hasText: new RegExp(`^(?!${first} )\\d+ \\+`) }).waitFor();
    expect(await messages().nth(2).textContent()).toBe("<b>Why?</b>");
    expect(await page.locator(".message b").count()).toBe(0);
    await page.getByRole("button", { name: "New conversation" }).click();
    expect(await messages().count()).toBe(0);
  });

  test("continues a text, stops, and shows errors", async () => {
    await page.locator("#mode").selectOption("continue");
    await page.locator("#tokens").fill("200");
    await ask("Once upon a time");
    await page.locator(".message", { hasText: /^Once upon a time.{5}/s }).waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await isDone();
    await server.settled();
    await page.locator("#temperature").evaluate((input: { value: string }) => (input.value = "-1"));
    await page
      .locator("#form")
      .evaluate((form: { noValidate: boolean }) => (form.noValidate = true));
    await ask("Once");
    await page.locator(".error", { hasText: "temperature must be" }).waitFor();
    await isDone();
    // The browser itself reports the status 400.
    expect(complaints.filter((text) => !text.includes("400"))).toEqual([]);
  });
});
