// Use the explorer of an open notebook by keyboard: browser_check.js URL CHROMIUM FOLDER
// Prints what it did; the exit code is 1 where something is wrong. Called by browser_check.py.
const { chromium } = require("playwright-core");
const [url, executablePath, folder] = process.argv.slice(2);
const quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"];
quiet.push("--disable-background-networking", "--disable-component-update");
quiet.push("--no-sandbox"); // root, as in a container, cannot have one

async function main() {
  const browser = await chromium.launch({ executablePath, args: quiet });
  const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  const faults = [];
  page.on("pageerror", (error) => faults.push(`page error: ${error.message}`));
  // Whatever works here, works without a network.
  await page.route(({ hostname }) => hostname !== "127.0.0.1", (route) => route.abort());

  await page.goto(url);
  const kernel = "jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel";
  await page.waitForFunction(`window.${kernel}?.status === "idle"`, null, { timeout: 120000 });
  await page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')");
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
  await browser.close();
  if (faults.length) throw new Error(faults.join("\n"));
}

main().catch((error) => {
  console.error(`browser check: ${error.message}`);
  process.exit(1);
});
