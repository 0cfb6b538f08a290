// Goes through lango's own pages in Chromium, as people do:
// node drive_pages.js BASE CHROMIUM PASSWORD
//
// The database has the people amina (operator), asha (clinician) and mama (acts for two), and the app `portal`, which is answered at http://localhost/back.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const [base, program, password] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const telephone = { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true };
const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
// The app's address sends people on to another of its hosts, as many do. The browser finds both here, and no other host.
const app = { back: 'http://localhost/back', home: 'http://www.example.net/home' };
const hosts = createServer((request, response) => {
  const { pathname, search } = new URL(request.url, app.home);
  if (pathname === '/back') response.writeHead(302, { location: app.home + search }).end();
  else response.writeHead(200, { 'content-type': 'text/html' }).end('<title>App</title>');
});
await new Promise((resolve) => hosts.listen(0, '127.0.0.1', resolve));
const here = `127.0.0.1:${hosts.address().port}`;

// In milliseconds: beside many other tests a page takes its time.
const patience = 120_000;

const browser = await chromium.launch({
  executablePath: program,
  timeout: patience,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-dev-shm-usage', `--host-resolver-rules=MAP localhost ${here}, MAP www.example.net ${here}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`,
  ],
});

/** A browser of somebody's own, that takes note of what must not be. */
async function somebody(options = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(patience);
  const seen = [];
  const known = [base, new URL(app.back).origin, new URL(app.home).origin];
  context.on('request', (request) => known.includes(new URL(request.url()).origin) || seen.push(`asked for ${request.url()}`));
  const page = await context.newPage();
  page.on('console', (message) => /Content Security Policy/.test(message.text()) && seen.push(message.text()));
  page.on('dialog', (dialog) => { seen.push(`a script ran: ${dialog.message()}`); return dialog.dismiss(); });
  page.seen = seen;
  return page;
}

/** The page as it stands is good for everybody. */
async function good(page, what) {
  // Through the debugger, which the page's policy does not hold.
  const debug = await page.context().newCDPSession(page);
  const run = async (expression) => (await debug.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })).result.value;
  await run(axe);
  const found = JSON.parse(await run(`axe.run(document, { runOnly: ${JSON.stringify(rules)} }).then((r) => JSON.stringify(r.violations))`));
  await debug.detach();
  assert.deepEqual(found.map((rule) => `${rule.id}: ${rule.nodes.map((node) => node.html)}`), [], what);
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= window, `${what} is ${wide} pixels wide in a window of ${window}`);
  assert.deepEqual(page.seen, [], what);
}

const press = (page, name) => page.getByRole('button', { name, exact: true }).click();

async function logIn(page, name, word = password) {
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByLabel('Password').fill(word);
  await press(page, 'Log in');
}

async function operator() {
  const page = await somebody(telephone);
  await page.goto(`${base}/`);
  await good(page, 'the front page');
  await page.getByRole('link', { name: 'the console' }).click();
  await good(page, 'the login');
  await logIn(page, 'amina', 'not the password');
  await page.getByRole('alert').waitFor();
  assert.equal(await page.getByLabel('Name', { exact: true }).inputValue(), 'amina', 'the name is kept');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'password');
  await good(page, 'the login that did not work');
  await logIn(page, 'amina');

  await page.getByRole('link', { name: 'Add a client' }).click();
  await page.getByLabel('Name that it logs in with').fill('emr-1');
  await page.getByLabel('Code of the facility').fill('HF-"><script>alert(1)</script>');
  await page.getByLabel('SMART scopes').fill('system/Nothing.rs');
  await press(page, 'Add');
  assert.ok((await page.getByRole('alert').boundingBox()).y < 400, 'what is wrong is seen at once');
  await good(page, 'the form with a mistake');
  await page.getByLabel('SMART scopes').fill('system/*.rs');
  await press(page, 'Add');
  assert.ok(await page.locator('code#secret').textContent());
  await good(page, 'the secret');
  // Who opens the address of a button's page again is shown the client, and nothing is done again.
  await page.goto(`${base}/console/clients`);
  await page.getByLabel('Name or facility contains').fill('EMR-1');
  await press(page, 'Search');
  await good(page, 'the clients');
  await page.getByRole('link', { name: 'emr-1' }).click();
  await good(page, 'a client');
  await press(page, 'Make a new secret for emr-1');
  await page.goto(page.url());
  await press(page, 'Disable emr-1');
  await page.getByRole('button', { name: 'Enable emr-1' }).waitFor();
  await page.goto(`${base}/console/nothing`);
  await good(page, 'where no page is');
  await page.getByRole('link', { name: 'To the console' }).click();
  await press(page, 'Log out');
  await logIn(page, 'asha');
  await good(page, 'the page for who is no operator');
  await press(page, 'Log out');
  await page.getByLabel('Password').waitFor();
}

/** What somebody sees whom the app sent to log in. */
async function asked(name, scope, options) {
  const page = await somebody(options);
  const parameters = {
    response_type: 'code', client_id: 'portal', redirect_uri: app.back, scope, state: 's', code_challenge_method: 'S256',
    code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
  };
  await page.goto(`${base}/auth/authorize?${new URLSearchParams(parameters)}`);
  await good(page, 'the login for an app');
  await logIn(page, name);
  return page;
}

/** This button leads back to the app, and on to wherever that sends people, with this parameter. */
async function leadsBack(page, name, parameter) {
  await press(page, name);
  await page.waitForURL(`${app.home}?**`);
  assert.ok(new URL(page.url()).searchParams.get(parameter), page.url());
  assert.deepEqual(page.seen, []);
}

async function clinician() {
  let page = await asked('asha', 'user/*.rs');
  await good(page, 'what the app asks for');
  await leadsBack(page, 'Allow', 'code');
  page = await asked('asha', 'launch/patient patient/*.rs');
  assert.equal(await page.getByRole('button', { name: 'Go on without a patient' }).count(), 0, 'nothing would be left');
  await page.getByLabel('Name, or a whole number').fill('nobody');
  await page.keyboard.press('Enter');
  await page.getByText('Nobody of your facility').waitFor();
  await good(page, 'the search for a patient');
  await leadsBack(page, 'Do not allow', 'error');
  page = await asked('asha', 'patient/*.rs');
  await good(page, 'what cannot be given');
  await leadsBack(page, 'Back to the app', 'error');
}

async function guardian() {
  const page = await asked('mama', 'launch/patient patient/*.rs', telephone);
  await good(page, 'whose record');
  await press(page, 'Allow');
  assert.equal(new URL(page.url()).pathname, '/auth/login', 'nobody is chosen for her');
  await page.getByRole('radio', { name: 'p2' }).check();
  await leadsBack(page, 'Allow', 'code');
}

await operator();
await clinician();
await guardian();
await browser.close();
hosts.close();
