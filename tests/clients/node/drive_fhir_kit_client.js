// Drives a FHIR server with fhir-kit-client, logged in by SMART Backend Services:
// node drive_fhir_kit_client.js BASE CLIENT KEY (the file of a P-384 private key)

import assert from 'node:assert/strict';
import { createPrivateKey, randomUUID, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { CapabilityTool, Client } from 'fhir-kit-client';

const SYSTEM = 'urn:test:fhir-kit-client';
const [base, clientId, keyFile] = process.argv.slice(2);
const client = new Client({ baseUrl: base });

/** The first issue of a request that must fail with this status. */
async function refused(status, call) {
  const error = await call().then(() => assert.fail(`it was not refused with ${status}`), (error) => error);
  assert.equal(error.response?.status, status, JSON.stringify(error.response ?? String(error)));
  assert.equal(error.response.data.resourceType, 'OperationOutcome');
  assert.ok(error.response.data.issue[0].diagnostics);
  return error.response.data.issue[0];
}

/** SMART Backend Services: an assertion signed with the client's own key. */
async function logIn() {
  await refused(401, () => client.read({ resourceType: 'Patient', id: 'x' }));
  const { tokenUrl } = await client.smartAuthMetadata();
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 240;
  const claims = { iss: clientId, sub: clientId, aud: tokenUrl.href, exp, jti: randomUUID() };
  const signed = `${part({ alg: 'ES384', typ: 'JWT', kid: 'test' })}.${part(claims)}`;
  const key = createPrivateKey(readFileSync(keyFile));
  const signature = sign('sha384', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url');
  const form = new URLSearchParams({
    grant_type: 'client_credentials',
    scope: 'system/*.cruds',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: `${signed}.${signature}`,
  });
  const answer = await (await fetch(tokenUrl, { method: 'POST', body: form })).json();
  assert.equal(answer.token_type?.toLowerCase(), 'bearer', JSON.stringify(answer));
  client.bearerToken = answer.access_token;
}

function patient(value, family) {
  return {
    resourceType: 'Patient',
    identifier: [{ system: SYSTEM, value }],
    name: [{ family, given: ['Rehema'] }],
    gender: 'female',
  };
}

async function capabilities() {
  const statement = await client.capabilityStatement();
  const tool = new CapabilityTool(statement);
  assert.equal(statement.fhirVersion, '4.0.1');
  for (const code of ['transaction', 'batch', 'history-system']) assert.ok(tool.serverCan(code), code);
  for (const code of ['read', 'vread', 'update', 'patch', 'delete', 'create', 'search-type', 'history-type', 'history-instance']) {
    assert.ok(tool.resourceCan('Observation', code), code);
  }
  assert.ok(tool.resourceSearch('Observation', 'code'));
}

async function instances() {
  const resourceType = 'Patient';
  const made = await client.create({ resourceType, body: patient('one', 'Lema') });
  const { response } = Client.httpFor(made);
  assert.equal(response.status, 201);
  assert.equal(response.headers.get('etag'), 'W/"1"');
  assert.ok(response.headers.get('location').endsWith(`/Patient/${made.id}/_history/1`));
  const { id } = made;
  assert.deepEqual(await client.read({ resourceType, id }), made);

  const body = { ...made, active: true };
  const ifMatch = { headers: { 'If-Match': 'W/"1"' } };
  const updated = await client.update({ resourceType, id, body, options: ifMatch });
  assert.equal(updated.meta.versionId, '2');
  await refused(412, () => client.update({ resourceType, id, body: { ...body, active: false }, options: ifMatch }));
  assert.deepEqual(await client.vread({ resourceType, id, version: '1' }), made);

  const ifNoneExist = { headers: { 'If-None-Exist': `identifier=${SYSTEM}|one` } };
  const again = await client.create({ resourceType, body: patient('one', 'Other'), options: ifNoneExist });
  assert.equal(again.id, id);
  assert.equal(Client.httpFor(again).response.status, 200);
  const minimal = await client.create({ resourceType, body: patient('none', 'X'), options: { headers: { Prefer: 'return=minimal' } } });
  assert.deepEqual(Object.keys(minimal), []);
  assert.ok(Client.httpFor(minimal).response.headers.get('location'));
  const named = await client.update({ resourceType, searchParams: { identifier: `${SYSTEM}|one` }, body: patient('one', 'Temba') });
  assert.equal(named.id, id);
  assert.equal(named.name[0].family, 'Temba');

  const jsonPatch = [{ op: 'test', path: '/gender', value: 'female' }, { op: 'add', path: '/birthDate', value: '1990-02' }];
  const patched = await client.patch({ resourceType, id, jsonPatch });
  assert.equal(patched.birthDate, '1990-02');
  await refused(422, () => client.patch({ resourceType, id, jsonPatch: [{ op: 'test', path: '/gender', value: 'male' }] }));
  const history = await client.history({ resourceType, id });
  assert.equal(history.entry.length, 4);
  assert.ok((await client.history({ resourceType })).entry.length >= 5);
  assert.equal((await client.history()).type, 'history');

  const outcome = await client.operation({ name: 'validate', resourceType, input: patient('x', 'Y') });
  assert.ok(outcome.issue.every(({ severity }) => severity !== 'error'));
  const issue = await refused(422, () => client.create({ resourceType, body: { ...patient('w', 'W'), gender: 'unheard-of' } }));
  assert.deepEqual(issue.expression, ['Patient.gender']);

  await client.delete({ resourceType, id });
  assert.equal((await refused(410, () => client.read({ resourceType, id }))).code, 'deleted');
  assert.equal((await refused(404, () => client.read({ resourceType, id: 'never' }))).code, 'not-found');
}

async function bundles() {
  const subject = `urn:uuid:${randomUUID()}`;
  const request = { method: 'POST', url: 'Patient', ifNoneExist: `identifier=${SYSTEM}|two` };
  const entry = [{ fullUrl: subject, resource: patient('two', 'Swai'), request }];
  for (let n = 1; n <= 13; n += 1) {
    const resource = {
      resourceType: 'Observation',
      status: 'final',
      code: { coding: [{ system: 'http://loinc.org', code: '8867-4' }] },
      subject: { reference: subject },
      effectiveDateTime: `2026-09-${String(n).padStart(2, '0')}`,
    };
    entry.push({ resource, request: { method: 'POST', url: 'Observation' } });
  }
  const done = await client.transaction({ body: { resourceType: 'Bundle', type: 'transaction', entry } });
  assert.equal(done.type, 'transaction-response');
  assert.ok(done.entry.every(({ response }) => response.status.startsWith('201')));

  const reads = [`Patient?identifier=${encodeURIComponent(`${SYSTEM}|two`)}`, 'Patient/never'];
  const batch = { resourceType: 'Bundle', type: 'batch', entry: reads.map((url) => ({ request: { method: 'GET', url } })) };
  const answers = await client.batch({ body: batch });
  assert.deepEqual(answers.entry.map(({ response }) => response.status.slice(0, 3)), ['200', '404']);
  assert.equal(answers.entry[1].response.outcome.resourceType, 'OperationOutcome');
  return answers.entry[0].resource.entry[0].resource.id;
}

async function searches(id) {
  const resourceType = 'Observation';
  for (const postSearch of [false, true]) {
    const searchParams = { 'subject:Patient.identifier': `${SYSTEM}|two`, _sort: '-date', _count: 5 };
    const seen = [];
    let page = await client.search({ resourceType, searchParams, options: { postSearch } });
    while (page) {
      seen.push(...page.entry.map(({ resource }) => resource.effectiveDateTime));
      page = await client.nextPage({ bundle: page });
    }
    assert.equal(new Set(seen).size, 13);
    assert.deepEqual(seen, [...seen].sort().reverse());
  }
  const some = await client.search({ resourceType, searchParams: { subject: `Patient/${id}`, date: ['ge2026-09-03', 'lt2026-09-05'], _include: 'Observation:subject' } });
  assert.deepEqual(some.entry.map(({ search }) => search.mode), ['match', 'match', 'include']);
  const found = await client.resolve({ reference: some.entry[0].resource.subject.reference, context: some });
  assert.equal(found.name[0].family, 'Swai');
  const record = await client.compartmentSearch({ resourceType, compartment: { resourceType: 'Patient', id } });
  assert.equal(record.total, 13);
  const reverse = await client.search({ resourceType: 'Patient', searchParams: { _id: id, _revinclude: 'Observation:subject' } });
  assert.equal(reverse.entry.length, 14);
  const issue = await refused(400, () => client.search({ resourceType, searchParams: { date: 'yesterday' } }));
  assert.deepEqual(issue.expression, ['Observation?date']);
}

await logIn();
await capabilities();
await instances();
await searches(await bundles());
