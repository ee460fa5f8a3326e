// Chromium on the pages of `wsgate demo`, with the demo's CA trusted as a person would do it.

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

import { freshFolder, homeIn, startWith } from "../gate.mjs";
import { output } from "../programs.mjs";
import { contains, equal, scenario, suite } from "../scenarios.mjs";

const patience = 15_000;
const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export default () =>
  suite("browser", async () => {
    const folder = await freshFolder("browser");
    const gate = await startWith(folder, ["demo", "--tls", "0", "--plain", "0"], 2);
    const [, ca] = await gate.logged(/--cacert (\S+)/);
    const [, secure] = await gate.logged(/(https:\/\/localhost:\d+)\//);
    const [, plain] = await gate.logged(/(http:\/\/localhost:\d+)\//);
    await trust(folder, ca);
    const browser = await launch(folder);

    await scenario("Chromium: index page over https", () => visits(browser, `${secure}/`, showsIndex));
    await scenario("Chromium: echo page over wss", () => visits(browser, `${secure}/echo`, echoes));
    await scenario("Chromium: stocks page over wss", () => visits(browser, `${secure}/stocks`, ticks));
    await scenario("Chromium: chat page over wss", () => talks(browser, `${secure}/chat`));
    await scenario("Chromium: echo page over ws", () => visits(browser, `${plain}/echo`, echoes));
    await scenario("Chromium: a reload is logged as Close 1001", () => reloads(browser, `${secure}/`, gate));
    await scenario("Chromium: a page is told that wsgate ends", () => isTold(browser, `${secure}/echo`, gate), 60);

    await browser.close();
  });

/** Puts the CA where Chromium looks for those that its user trusts. */
async function trust(home, ca) {
  const database = `sql:${join(home, ".pki/nssdb")}`;
  await mkdir(join(home, ".pki/nssdb"), { recursive: true });
  await output("certutil", ["-d", database, "-N", "--empty-password"]);
  await output("certutil", ["-d", database, "-A", "-t", "C,,", "-n", "wsgate", "-i", resolve(home, ca)]);
}

async function launch(home) {
  const context = await chromium.launchPersistentContext(join(home, "profile"), {
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: flags,
    env: homeIn(home),
    timeout: 30_000,
  });
  context.setDefaultTimeout(patience);
  return context;
}

/** Opens a page, does `body` with it, and checks that nothing on it went wrong or came from another host. */
async function visits(browser, url, body) {
  const page = await browser.newPage();
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(url).host) complaints.push(`it asks for ${request.url()}`);
  });
  try {
    const answer = await page.goto(url);
    equal(answer.status(), 200, "status");
    await body(page);
    equal(complaints.join(", "), "", "what the page complains of");
  } finally {
    await page.close();
  }
}

async function isOpen(page) {
  await page.locator("#state.open", { hasText: "open" }).waitFor();
}

async function showsIndex(page) {
  for (const name of ["echo", "stocks", "chat"]) await page.locator(`a.tile[href="/${name}"]`).waitFor();
}

async function echoes(page) {
  await isOpen(page);
  await page.locator("#log li.in", { hasText: "Websocket Send: Hello World" }).waitFor();
  await page.fill("#message", "from a browser");
  await page.click("#send");
  await page.locator("#log li.out .text", { hasText: "from a browser" }).waitFor();
  await page.locator("#log li.in .text", { hasText: "from a browser" }).waitFor();
}

async function ticks(page) {
  await isOpen(page);
  await page.fill("#symbols", "AAPL, MSFT");
  await page.click("#subscribe");
  for (const symbol of ["AAPL", "MSFT"]) {
    const row = `tbody#prices tr[data-symbol=${symbol}]`;
    await page.locator(`${row}.up, ${row}.down`).waitFor();
  }
}

/** What one says, both hear, under the name of the one who said it. */
async function talks(browser, url) {
  await visits(browser, url, (first) =>
    visits(browser, url, async (second) => {
      await Promise.all([first, second].map(isOpen));
      const names = await Promise.all([first, second].map(guest));
      if (names[0] === names[1]) throw new Error(`both guests are ${names[0]}`);
      await first.fill("#message", "hello, you");
      await first.click("#send");
      await first.locator(`#log li.out[data-id="${names[0]}"] .text`, { hasText: "hello, you" }).waitFor();
      await second.locator(`#log li.in[data-id="${names[0]}"] .text`, { hasText: "hello, you" }).waitFor();
      contains(await second.textContent("#protocol"), "speaking chat", "subprotocol on the page");
    }),
  );
}

async function guest(page) {
  const named = page.locator("#me", { hasText: /^\w+-\d+$/ });
  await named.waitFor();
  return named.textContent();
}

/** A socket that its page leaves behind is closed by the browser itself (rule T12). */
async function reloads(browser, url, gate) {
  await visits(browser, url, async (page) => {
    await page.evaluate(async (path) => {
      window.socket = new WebSocket(path);
      await new Promise((resolve) => window.socket.addEventListener("message", resolve));
    }, "/echo?left");
    await page.reload();
    await gate.logged(/tunnel_end \S+ GET localhost\/echo\?left .*\bclose=1001\/downstream\//);
  });
}

/** The last scenario of the gate: its end closes the page's socket with 1012. */
async function isTold(browser, url, gate) {
  const page = await browser.newPage();
  await page.goto(url);
  await isOpen(page);
  await gate.end();
  await page.locator("#log li.event", { hasText: "Closed with code 1012" }).waitFor();
}
