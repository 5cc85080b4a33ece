/* docs.js: shows /openapi.json as a page: every operation with its fields, bodies, replies and a curl line. */
'use strict';

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

let api = {};

/* A schema or response with its $ref followed. */
function follow(node, depth = 0) {
  if (!node || !node.$ref || depth > 8) return node || {};
  const found = node.$ref.replace(/^#\//, '').split('/')
    .reduce((at, key) => (at || {})[key.replaceAll('~1', '/').replaceAll('~0', '~')], api);
  return follow(found, depth + 1);
}

function typeOf(schema, depth = 0) {
  schema = follow(schema);
  if (depth > 4) return '…';
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' or ');
  const several = schema.oneOf || schema.anyOf;
  if (several) return [...new Set(several.map((each) => typeOf(each, depth + 1)))].join(' or ');
  if (Array.isArray(schema.type)) return schema.type.join(' or ');
  if (schema.type === 'array') return `list of ${schema.items ? typeOf(schema.items, depth + 1) : 'anything'}`;
  if (schema.format === 'binary' || schema.contentMediaType) return 'file';
  if (schema.type === 'object' && schema.properties && depth)
    return `{${Object.keys(schema.properties).join(', ')}}`;
  let text = schema.type || 'anything';
  if (schema.minimum !== undefined && schema.maximum !== undefined) text += `, ${schema.minimum} to ${schema.maximum}`;
  return text;
}

function table(rows) {
  return make('div', {class: 'wide'}, make('table', {},
    make('thead', {}, make('tr', {}, ...['Name', 'Type', 'About'].map((text) => make('th', {scope: 'col'}, text)))),
    make('tbody', {}, ...rows.map(([name, type, about, required]) => make('tr', {},
      make('td', {}, make('code', {}, name), required ? ' *' : ''), make('td', {}, type), make('td', {}, about || ''))))));
}

function properties(schema) {
  schema = follow(schema);
  const required = schema.required || [];
  return Object.entries(schema.properties || {}).map(([name, each]) =>
    [name, typeOf(each, 1), follow(each).description, required.includes(name)]);
}

function curlOf(method, path, operation) {
  const base = new URL('.', location.href).href.replace(/\/$/, '');
  const content = follow(operation.requestBody).content || {};
  const verb = method === 'get' ? '' : `-X ${method.toUpperCase()} `;
  const line = `curl ${verb}${base}${path}`;
  const form = content['multipart/form-data'];
  const schema = follow((form || content['application/json'] || {}).schema);
  const required = schema.required || [];
  const has = schema.properties || {};
  if (form && has.image) {
    const others = required.filter((name) => name !== 'image');
    return [line.replace('-X POST ', ''), ' -F image=@picture.jpg', ...others.map((name) => ` -F ${name}=…`)].join('');
  }
  if (content['application/json']) {
    const body = Object.fromEntries(required.map((name) => [name, '…']));
    return `${line} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
  }
  return line;
}

function showOperation(method, path, operation) {
  const body = follow(operation.requestBody);
  const content = body.content || {};
  const details = make('details', {class: 'op', id: operation.operationId || ''},
    make('summary', {}, make('span', {class: 'verb'}, method.toUpperCase()),
      make('code', {class: 'path'}, path), make('span', {}, operation.summary || '')));
  details.addEventListener('toggle', () => {
    if (!details.open || details.childElementCount > 1) return;
    if (operation.description) details.append(make('p', {}, operation.description));
    const parameters = (operation.parameters || []).map((each) => follow(each));
    if (parameters.length)
      details.append(make('h3', {}, 'Parameters'), table(parameters.map((each) =>
        [each.name, `${typeOf(each.schema)}, in the ${each.in}`, each.description || follow(each.schema).description, each.required])));
    const types = Object.keys(content);
    if (types.length) {
      const rows = properties((content['application/json'] || content['multipart/form-data'] || {}).schema);
      details.append(make('h3', {}, body.required === false ? 'Body (optional)' : 'Body'), make('p', {class: 'hint'}, types.join(', ')));
      if (rows.length) details.append(table(rows));
    }
    for (const [status, given] of Object.entries(operation.responses || {})) {
      const reply = follow(given);
      const replyTypes = Object.keys(reply.content || {});
      details.append(make('h3', {}, status === 'default' ? 'Any error' : `Reply ${status}`),
        make('p', {class: 'hint'}, [reply.description, ...replyTypes].filter(Boolean).join(' · ')));
      const schema = ((reply.content || {})['application/json'] || {}).schema;
      const rows = schema ? properties(schema) : [];
      if (rows.length) details.append(table(rows));
    }
    details.append(make('h3', {}, 'With curl'), make('pre', {tabindex: '0'}, curlOf(method, path, operation)));
  });
  return details;
}

async function show() {
  const served = document.getElementById('served');
  try {
    const reply = await fetch('openapi.json');
    if (!reply.ok) throw new Error();
    api = await reply.json();
  } catch {
    served.textContent = 'openapi.json cannot be read.';
    served.className = 'fault';
    return;
  }
  const groups = new Map();
  let n = 0;
  for (const [path, operations] of Object.entries(api.paths || {}))
    for (const [method, operation] of Object.entries(operations)) {
      if (!operation.responses) continue;
      const tag = (operation.tags || ['other'])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push([method, path, operation]);
      n++;
    }
  served.textContent = `${api.info.title} ${api.info.version}: ${n} operations. * marks what must be given.`;
  for (const [tag, operations] of groups)
    document.getElementById('docs').append(make('section', {}, make('h2', {}, tag[0].toUpperCase() + tag.slice(1)),
      ...operations.map((each) => showOperation(...each))));
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted) wanted.open = true;
}

const theme = localStorage.getItem('theme');
if (theme) document.documentElement.dataset.theme = theme;
show();
