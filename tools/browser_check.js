// Use the explorer of an open notebook by keyboard, reload a notebook that trains, and look at the
// workbook's index:
// browser_check.js URL CHROMIUM FOLDER INDEX RELOADED LOG EPOCHS
// Prints what it did; the exit code is 1 where something is wrong. Called by browser_check.py.
const { chromium } = require("playwright-core");
const { existsSync, readFileSync } = require("fs");
const { fileURLToPath, pathToFileURL } = require("url");
const [url, executablePath, folder, index, reloaded, log, epochs] = process.argv.slice(2);
const quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"];
quiet.push("--disable-background-networking", "--disable-component-update");
quiet.push("--no-sandbox"); // root, as in a container, cannot have one

// The index fits a desk's and a phone's window, asks for nothing from elsewhere, and is whole.
async function lookAtIndex(browser) {
  const faults = [];
  for (const width of [1280, 390]) {
    const page = await browser.newPage({ viewport: { width, height: 900 } });
    page.on("pageerror", (error) => faults.push(`index: page error: ${error.message}`));
    await page.route(
      ({ protocol }) => protocol !== "file:" && protocol !== "data:",
      (route) => faults.push(`index asks for ${route.request().url()}`) && route.abort(),
    );
    await page.goto(pathToFileURL(index).href);
    const seen = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      scripts: document.scripts.length,
      sections: document.querySelectorAll("section table").length,
      blank: [...document.images].filter((image) => !image.naturalWidth).length,
      pictures: document.images.length,
      cards: document.querySelectorAll("article").length,
      inside: [...document.querySelectorAll('a[href^="#"]')].map((link) => link.hash),
      ids: [...document.querySelectorAll("[id]")].map((element) => `#${element.id}`),
      files: [...document.links].map((link) => link.href).filter((x) => x.startsWith("file:")),
    }));
    const at = `index at ${width} pixels`;
    if (seen.wide > 0) faults.push(`${at}: ${seen.wide} pixels too wide`);
    if (seen.scripts) faults.push(`${at}: ${seen.scripts} scripts`);
    if (seen.blank) faults.push(`${at}: ${seen.blank} pictures do not show`);
    if (!seen.sections) faults.push(`${at}: no table of verdicts`);
    const lost = seen.inside.filter((place) => !seen.ids.includes(place));
    lost.push(...seen.files.filter((file) => !existsSync(fileURLToPath(file.split("#")[0]))));
    if (lost.length) faults.push(`${at}: links lead nowhere: ${lost}`);
    await page.screenshot({ path: `${folder}/index_${width}.png`, fullPage: true });
    console.log(`${at}: ${seen.cards} notebooks, ${seen.pictures} pictures`);
    await page.close();
  }
  return faults;
}

const kernel = "jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel";
const idle = (page) =>
  page.waitForFunction(`window.${kernel}?.status === "idle"`, null, { timeout: 120000 });
const runAll = "jupyterapp.commands.execute('notebook:run-all-cells')";

function outputs() {
  const cells = jupyterapp.shell.currentWidget.content.model.toJSON().cells;
  return cells.filter((cell) => cell.cell_type === "code").flatMap((cell) => cell.outputs);
}

// The page is loaded anew while a cell trains: the kernel goes on to the run's end, and the page
// works with it.
async function reloadWhileTraining(page) {
  const logged = () => (existsSync(log) ? readFileSync(log, "utf8").split("\n").length - 1 : 0);
  async function until(lines) {
    for (let i = 0; logged() < lines; i++) {
      if (i > 1200) throw new Error(`reloaded: ${logged()} of ${lines} epochs after 120 s`);
      await page.waitForTimeout(100);
    }
  }
  await page.goto(url.replace(/[^/]*\.ipynb/, reloaded));
  await idle(page);
  await page.evaluate(`void ${runAll}`);
  await until(2);
  await page.reload();
  const at = logged();
  if (at >= epochs) throw new Error("reloaded: the run was over before; it needs more epochs");
  await until(epochs);
  await idle(page);
  await page.evaluate(runAll); // opens what has ended
  const found = await page.evaluate(outputs);
  const failed = found.filter((x) => x.output_type === "error").map((x) => x.evalue);
  const told = found.some((x) => [x.text].flat().join("").includes(`${epochs} epochs`));
  if (failed.length || !told) throw new Error(`reloaded: the page is lost: ${failed}`);
  if (logged() !== Number(epochs)) throw new Error(`reloaded: ${logged()} lines are logged`);
  console.log(`reloaded after epoch ${at}: the run went on to epoch ${logged()}`);
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: quiet });
  const atIndex = await lookAtIndex(browser);
  if (atIndex.length) throw new Error(atIndex.join("\n"));
  const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  const faults = [];
  page.on("pageerror", (error) => faults.push(`page error: ${error.message}`));
  // Whatever works here, works without a network.
  await page.route(({ hostname }) => hostname !== "127.0.0.1", (route) => route.abort());

  await page.goto(url);
  await idle(page);
  await page.evaluate(runAll);
  const { ran, errors, explorer } = await page.evaluate(() => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const cells = notebook.model.toJSON().cells;
    const code = cells.filter((cell) => cell.cell_type === "code");
    const failed = code.flatMap((cell) => cell.outputs).filter((x) => x.output_type === "error");
    return {
      ran: code.every((cell) => cell.execution_count !== null) && code.length,
      errors: failed.map((x) => `${x.ename}: ${x.evalue}`),
      explorer: cells.findIndex((cell) => cell.source.includes("AttentionExplorer(")),
    };
  });
  faults.push(...errors);
  if (!ran) throw new Error(`not every cell ran: ${errors}`);
  console.log(`ran ${ran} code cells`);

  const picture = page.locator(".widget-image");
  const scroll = `jupyterapp.shell.currentWidget.content.scrollToItem(${explorer}, "start")`;
  for (let i = 0; i < 20 && !(await picture.count()); i++) {
    await page.evaluate(scroll); // cells out of sight have no outputs in the page
    await page.waitForTimeout(500);
  }
  await picture.waitFor();

  // By Tab from the text field, as somebody without a mouse would.
  async function reach(name) {
    await page.locator(".widget-text input").focus();
    for (let i = 0; i < 30; i++) {
      const label = await page.evaluate(
        () => document.activeElement.closest(".widget-inline-hbox")?.innerText.split("\n")[0],
      );
      if (label === name) return;
      await page.keyboard.press("Tab");
    }
    throw new Error(`the Tab key does not reach the control '${name}'`);
  }
  async function change(name, key) {
    await reach(name);
    const before = await picture.getAttribute("src");
    const start = Date.now();
    await page.keyboard.press(key);
    while ((await picture.getAttribute("src")) === before) {
      if (Date.now() - start > 10000)
        throw new Error(`${name} by ${key}: still the same picture after 10 s`);
    }
    console.log(`${name} by ${key}: another picture after ${Date.now() - start} ms`);
  }
  await change("layer", "ArrowLeft");
  await change("layer", "ArrowRight");
  await change("query", "ArrowRight");
  await change("head", "ArrowRight");

  for (const theme of ["Light", "Dark"]) {
    const command = { theme: `JupyterLab ${theme}` };
    await page.evaluate((x) => jupyterapp.commands.execute("apputils:change-theme", x), command);
    await page.waitForTimeout(1500); // fonts and style sheets of the other theme
    await picture.scrollIntoViewIfNeeded();
    await page.screenshot({ path: `${folder}/${theme.toLowerCase()}.png` });
  }
  await reloadWhileTraining(page);
  await browser.close();
  if (faults.length) throw new Error(faults.join("\n"));
}

main().catch((error) => {
  console.error(`browser check: ${error.message}`);
  process.exit(1);
});
