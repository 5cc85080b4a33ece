/* app.js: the page at /. Plain JavaScript against the server's own API; asks nobody else for anything. */
'use strict';

const $ = (selector, root = document) => root.querySelector(selector);

/* Makes an element: make('p', {class: 'hint'}, 'text', child…). Text is always text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/* ---- asking the server ------------------------------------------------------------------------ */

const state = {
  models: [], defaults: {}, tab: 'caption', chosen: {},
  picture: null, /* {blob, name, url} */
  talk: [],      /* of a chat model: [{role, content}] */
};

function headers(more = {}) {
  const key = $('#key').value.trim();
  return key ? {...more, Authorization: 'Bearer ' + key} : more;
}

/* An error as a sentence. */
async function faultOf(reply) {
  let message = '';
  try {
    message = (await reply.json()).error.message;
  } catch { /* not ours: a proxy's page, say */ }
  if (reply.status === 401)
    return 'The server asks for an API key: give one under Settings.' + (message ? ` (${message})` : '');
  const wait = reply.headers.get('Retry-After');
  if (reply.status === 429 || reply.status === 503)
    return sentence(message || 'The server is busy') + (wait ? ` Try again in ${wait} s.` : '');
  return sentence(message || `The server answered with status ${reply.status}`);
}

function sentence(text) {
  const upper = /^[a-z]/.test(text) && !/^[a-z_]+:/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(upper) ? upper : upper + '.';
}

/* fetch() that throws sentences. */
async function send(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, {...options, headers: headers(options.headers)});
  } catch {
    throw new Error('The server cannot be reached.');
  }
  if (!reply.ok) throw new Error(await faultOf(reply));
  return reply;
}

async function sendJson(method, path, body) {
  const options = body === undefined ? {method}
    : {method, headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)};
  return (await send(path, options)).json();
}

/* The pieces of a text/event-stream, as parsed JSON. */
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += value.replaceAll('\r', '');
    for (let end; (end = rest.indexOf('\n\n')) >= 0;) {
      const data = rest.slice(0, end).split('\n').filter((line) => line.startsWith('data:'))
        .map((line) => line.slice(5).trimStart()).join('\n');
      rest = rest.slice(end + 2);
      if (data && data !== '[DONE]') yield JSON.parse(data);
    }
  }
}

/* ---- the picture ------------------------------------------------------------------------------ */

const SENT_AS_IS = ['image/jpeg', 'image/png', 'image/webp'];

/* What the server does not read (GIF, AVIF, …) is sent as PNG, if the browser can read it. */
async function readable(file) {
  if (SENT_AS_IS.includes(file.type)) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const canvas = make('canvas');
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext('2d').drawImage(bitmap, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
    return new File([blob], file.name.replace(/\.\w+$/, '') + '.png', {type: 'image/png'});
  } catch {
    throw new Error(`${file.name || 'That'} is not a picture that can be read here; JPEG, PNG and WebP can.`);
  }
}

async function usePicture(file, name) {
  const about = $('#about');
  try {
    const blob = await readable(file);
    const url = URL.createObjectURL(blob);
    const shown = $('#shown');
    shown.src = url;
    await shown.decode().catch(() => { throw new Error(`${name} cannot be read as a picture.`); });
    if (state.picture) URL.revokeObjectURL(state.picture.url);
    state.picture = {blob, url, name: name || 'picture'};
    shown.alt = 'The picture: ' + state.picture.name;
    $('#stage').hidden = false;
    about.textContent = `${state.picture.name}, ${shown.naturalWidth} × ${shown.naturalHeight}`;
    clearDrawings();
    forget();
    for (const result of document.querySelectorAll('form.panel .result')) result.replaceChildren();
    for (const button of $('#samples').children)
      button.setAttribute('aria-pressed', String(button.dataset.sample === name));
  } catch (fault) {
    about.textContent = fault.message;
  }
}

async function useSample(name) {
  const reply = await fetch('page/' + name);
  await usePicture(await reply.blob(), name);
}

async function needPicture() {
  if (!state.picture) await useSample($('#samples button').dataset.sample);
  return state.picture;
}

function clearDrawings() {
  $('#boxes').replaceChildren();
  $('#masks').hidden = true;
}

/* ---- results ---------------------------------------------------------------------------------- */

const COLOURS = ['#e4572e', '#2e86e4', '#2fa84f', '#b14ae0', '#e0a800', '#00a7a7', '#e0498f', '#7a8b99'];

const number = (value, digits = 1) => Number(value).toFixed(digits);
const percent = (score) => number(100 * score, score > 0.0995 || score === 0 ? 0 : 1) + ' %';

function bars(rows) {
  const list = make('ul', {class: 'bars'});
  for (const {name, score, colour, shown} of rows) {
    const fill = make('div', {class: 'fill'});
    fill.style.width = 100 * Math.max(0, Math.min(1, score)) + '%';
    if (colour) fill.style.background = colour;
    const swatch = colour ? make('i', {class: 'swatch'}) : null;
    if (swatch) swatch.style.background = colour;
    list.append(make('li', {}, make('span', {class: 'name'}, swatch, name),
      make('div', {class: 'track', 'aria-hidden': 'true'}, fill), make('span', {class: 'value'}, shown || percent(score))));
  }
  return list;
}

/* Where the time went. `began`: performance.now() when the request was sent. */
function timeSplit(timings, model, began) {
  if (!timings) return null;
  const parts = [['queue', 'waiting', timings.queue_ms], ['prepare', 'reading the picture', timings.preprocess_ms],
    ['forward', 'model', timings.forward_ms]];
  const known = parts.reduce((sum, part) => sum + part[2], 0);
  parts.push(['other', 'the rest', Math.max(0, timings.total_ms - known)]);
  const split = make('div', {class: 'split', 'aria-hidden': 'true'});
  const key = make('div', {class: 'key'});
  for (const [kind, name, ms] of parts) {
    const piece = make('i', {class: kind});
    piece.style.flex = `${ms} 0 0`;
    split.append(piece);
    key.append(make('span', {}, make('i', {class: kind, 'aria-hidden': 'true'}), `${name} ${number(ms)} ms`));
  }
  const trip = number(performance.now() - began);
  key.append(make('span', {}, `= ${number(timings.total_ms)} ms in the server, ${trip} ms with the way there and back`));
  if (timings.batch_size > 1) key.append(make('span', {}, `batch of ${timings.batch_size}`));
  if (model) key.append(make('span', {}, `by ${model}`));
  return make('div', {class: 'times'}, split, key);
}

/* ---- the request as code. request: {path, fields: [[name, value]], file} or {path, json} -------- */

const shellQuote = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
const quote = (text) => JSON.stringify(text);

function asCurl({path, fields, file, json}, base, key) {
  const lines = ['curl ' + shellQuote(base + path)];
  if (key) lines.push(`-H ${shellQuote('Authorization: Bearer ' + key)}`);
  if (json) lines.push(`-H 'Content-Type: application/json'`, `-d ${shellQuote(JSON.stringify(json))}`);
  if (file) lines.push(`-F ${shellQuote('image=@' + file)}`);
  for (const [name, value] of fields || []) lines.push(`--form-string ${shellQuote(name + '=' + value)}`);
  return lines.join(' \\\n  ');
}

function asJavaScript({path, fields, file, json}, base, key) {
  const lines = [];
  const options = [`method: 'POST'`];
  const head = [];
  if (key) head.push(`Authorization: ${quote('Bearer ' + key)}`);
  if (json) {
    head.push(`'Content-Type': 'application/json'`);
    options.push(`body: JSON.stringify(${JSON.stringify(json)})`);
  } else {
    lines.push('const form = new FormData();');
    if (file) lines.push(`form.append('image', fileInput.files[0]); // a File or Blob: ${file}`);
    for (const [name, value] of fields) lines.push(`form.append(${quote(name)}, ${quote(String(value))});`);
    options.push('body: form');
  }
  if (head.length) options.push(`headers: {${head.join(', ')}}`);
  lines.push(`const reply = await fetch(${quote(base + path)}, {`, ...options.map((line) => `  ${line},`), '});',
    'if (!reply.ok) throw new Error((await reply.json()).error.message);', 'console.log(await reply.json());');
  return lines.join('\n');
}

function asPython({path, fields, file, json}, base, key) {
  const lines = ['import requests', '', `reply = requests.post(`, `    ${quote(base + path)},`];
  if (key) lines.push(`    headers={"Authorization": ${quote('Bearer ' + key)}},`);
  /* true, false and null do not occur in what this page sends. */
  if (json) lines.push(`    json=${JSON.stringify(json)},`);
  if (file) lines.push(`    files={"image": open(${quote(file)}, "rb")},`);
  if (fields && fields.length) {
    const pairs = fields.map(([name, value]) => `(${quote(name)}, ${quote(String(value))})`);
    lines.push(`    data=[${pairs.join(', ')}],`);
  }
  lines.push(')', 'reply.raise_for_status()', 'print(reply.json())');
  return lines.join('\n');
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { /* plain http on another host: the old way */ }
  const area = make('textarea', {'aria-hidden': 'true'});
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  return copied;
}

function copies(request) {
  const code = make('pre', {hidden: true, tabindex: '0'});
  const said = make('span', {role: 'status'});
  const row = make('div', {class: 'copies'}, 'Copy as');
  for (const [name, write] of [['curl', asCurl], ['JavaScript', asJavaScript], ['Python', asPython]])
    row.append(make('button', {type: 'button', class: 'small', onclick: async () => {
      const base = new URL('.', location.href).href;
      code.textContent = write(request, base, $('#key').value.trim() ? 'YOUR_KEY' : '');
      code.hidden = false;
      said.textContent = await toClipboard(code.textContent) ? 'Copied.' : 'Select and copy it below.';
    }}, name));
  row.append(said);
  return make('div', {}, row, code);
}

/* Runs a panel's request: the button waits, errors become sentences. */
async function during(panel, work) {
  const result = $('.result', panel);
  const buttons = [...panel.querySelectorAll('button.go')];
  buttons.forEach((button) => { button.disabled = true; });
  result.setAttribute('aria-busy', 'true');
  try {
    await work(result);
  } catch (fault) {
    result.replaceChildren(make('p', {class: 'fault', role: 'alert'}, fault.message));
  } finally {
    result.removeAttribute('aria-busy');
    buttons.forEach((button) => { button.disabled = false; });
  }
}

function formOf(fields, picture) {
  const form = new FormData();
  form.append('image', picture.blob, picture.name);
  for (const [name, value] of fields) form.append(name, value);
  return form;
}

/* POSTs the picture with fields; gives the reply and what is shown below each result. With onText the reply is
 * streamed, and onText gets its text as far as it is there. */
async function post(path, fields, onText) {
  const picture = await needPicture();
  const model = $('#model').value;
  if (model) fields = [...fields, ['model', model]];
  const began = performance.now();
  const sent = onText ? [...fields, ['stream', 'true']] : fields;
  const answer = await send(path, {method: 'POST', body: formOf(sent, picture)});
  let reply, text = '';
  if ((answer.headers.get('Content-Type') || '').startsWith('text/event-stream')) {
    for await (const chunk of events(answer)) {
      if (chunk.error) throw new Error(sentence(chunk.error.message));
      if ('delta' in chunk) onText(text += chunk.delta);
      else reply = chunk;
    }
    if (!reply) throw new Error('The answer broke off.');
  } else {
    reply = await answer.json();
  }
  const warnings = (reply.warnings || []).map((warning) => make('p', {class: 'hint'}, sentence(warning)));
  return {reply, foot: [...warnings, timeSplit(reply.timings, reply.model, began), copies({path, fields, file: picture.name})]};
}

const linesOf = (text) => text.split('\n').map((line) => line.trim()).filter(Boolean);

/* The filled-in ones among a form's fields. */
const given = (form, ...names) => names.map((name) => [name, form.elements[name].value.trim()]).filter((pair) => pair[1]);

async function caption(event) {
  event.preventDefault();
  const form = event.target;
  await during(form, async (result) => {
    const growing = make('p', {class: 'answer'});
    const fields = given(form, 'prompt', 'num_beams', 'max_tokens', 'temperature', 'n');
    const {reply, foot} = await post('v1/caption', fields, (text) => {
      growing.textContent = text;
      if (!growing.isConnected) result.replaceChildren(growing);
    });
    const texts = (reply.captions || []).length > 1
      ? make('ol', {class: 'texts'}, ...reply.captions.map((row) => make('li', {}, row.caption))) : null;
    result.replaceChildren(make('p', {class: 'answer'}, reply.caption), ...(texts ? [texts] : []), ...foot);
  });
}

async function compare(event) {
  event.preventDefault();
  const form = event.target;
  const match = form.elements.mode.value === 'match';
  const texts = linesOf(form.elements.labels.value);
  await during(form, async (result) => {
    const fields = texts.map((text) => [match ? 'texts' : 'labels', text]);
    if (!match) fields.push(...given(form, 'template'));
    const {reply, foot} = await post(match ? 'v1/match' : 'v1/classify', fields);
    const rows = match
      ? reply.scores.map((score, i) => ({name: texts[i], score})).sort((a, b) => b.score - a.score)
      : reply.labels.map(({label, score}) => ({name: label, score}));
    result.replaceChildren(bars(rows), ...foot);
  });
}

async function detect(event) {
  event.preventDefault();
  const form = event.target;
  const queries = linesOf(form.elements.queries.value);
  await during(form, async (result) => {
    clearDrawings();
    const {reply, foot} = await post('v1/detect', [...queries.map((query) => ['queries', query]), ...given(form, 'threshold')]);
    const found = reply.detections;
    const colour = (label) => COLOURS[Math.max(0, queries.indexOf(label)) % COLOURS.length];
    const {naturalWidth: width, naturalHeight: height} = $('#shown');
    const svg = $('#boxes');
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    const size = 13 * width / ($('#shown').clientWidth || width); /* 13 pixels, as shown */
    const draw = (tag, attributes, text = '') => {
      const shape = document.createElementNS('http://www.w3.org/2000/svg', tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      shape.textContent = text;
      svg.append(shape);
      return shape;
    };
    for (const {label, score, box} of [...found].reverse()) {
      draw('rect', {class: 'box', x: box.xmin, y: box.ymin, width: box.xmax - box.xmin, height: box.ymax - box.ymin, stroke: colour(label)});
      const back = draw('rect', {fill: colour(label)});
      const text = draw('text', {'font-size': size}, `${label} ${percent(score)}`);
      const wide = text.getComputedTextLength() + size * 0.6, high = size * 1.4;
      const x = Math.max(0, Math.min(box.xmin, width - wide)), y = box.ymin >= high ? box.ymin - high : box.ymin;
      for (const [name, value] of Object.entries({x, y, width: wide, height: high})) back.setAttribute(name, value);
      text.setAttribute('x', x + size * 0.3);
      text.setAttribute('y', y + size * 1.05);
    }
    const rows = found.map(({label, score}) => ({name: label, score, colour: colour(label)}));
    const none = make('p', {class: 'answer'}, 'Nothing reaches that score.');
    result.replaceChildren(found.length ? bars(rows) : none, ...foot);
  });
}

/* A PNG of probabilities, as an image to read pixels from. */
async function pixelsOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = make('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function segment(event) {
  event.preventDefault();
  const form = event.target;
  const prompts = linesOf(form.elements.prompts.value);
  await during(form, async (result) => {
    clearDrawings();
    const {reply, foot} = await post('v1/segment', prompts.map((prompt) => ['prompts', prompt]));
    const canvas = $('#masks');
    const layers = await Promise.all(reply.masks.map((mask) => pixelsOf(mask.mask)));
    canvas.width = layers.length ? layers[0].width : 1;
    canvas.height = layers.length ? layers[0].height : 1;
    const context = canvas.getContext('2d');
    for (const [i, layer] of layers.entries()) {
      const rgb = COLOURS[i % COLOURS.length].match(/\w\w/g).map((hex) => parseInt(hex, 16));
      for (let at = 0; at < layer.data.length; at += 4) {
        layer.data[at + 3] = layer.data[at] * 0.65;
        for (let c = 0; c < 3; c++) layer.data[at + c] = rgb[c];
      }
      const bitmap = await createImageBitmap(layer);
      context.drawImage(bitmap, 0, 0);
    }
    canvas.hidden = !layers.length;
    const whole = canvas.width * canvas.height;
    result.replaceChildren(bars(reply.masks.map((mask, i) => {
      const share = mask.area > 1 ? mask.area / whole : mask.area || 0;
      return {name: mask.prompt || prompts[i], score: share, colour: COLOURS[i % COLOURS.length], shown: percent(share)};
    })), make('p', {class: 'hint'}, 'The share of the picture that each one covers.'), ...foot);
  });
}

/* ---- asking ----------------------------------------------------------------------------------- */

function forget() {
  state.talk = [];
  $('#talk').replaceChildren();
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = failed;
    reader.readAsDataURL(blob);
  });
}

/* A chat model remembers the conversation: all of it is sent, with the picture in its first turn. */
async function chat(model, question, said) {
  const picture = await needPicture();
  const image = {type: 'image_url', image_url: {url: await dataUrl(picture.blob)}};
  state.talk.push({role: 'user', content: state.talk.length ? question : [image, {type: 'text', text: question}]});
  const body = {model, messages: state.talk, stream: true};
  let text = '', timings = null;
  try {
    const reply = await send('v1/chat/completions', {method: 'POST',
      headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
    const add = (chunk) => {
      if (chunk.error) throw new Error(sentence(chunk.error.message));
      const choice = (chunk.choices || [])[0] || {};
      text += (choice.delta || choice.message || {}).content || '';
      timings = chunk.timings || timings;
      said.textContent = text;
    };
    if ((reply.headers.get('Content-Type') || '').startsWith('text/event-stream'))
      for await (const chunk of events(reply)) add(chunk);
    else
      add(await reply.json());
  } catch (fault) {
    state.talk.pop();
    throw fault;
  }
  state.talk.push({role: 'assistant', content: text});
  const shown = {...body, messages: body.messages.slice(0, -1), stream: undefined};
  shown.messages = shown.messages.map((turn) => typeof turn.content === 'string' ? turn
    : {...turn, content: [{type: 'image_url', image_url: {url: 'data:image/jpeg;base64,…'}}, turn.content[1]]});
  return {timings, request: {path: 'v1/chat/completions', json: shown}};
}

async function ask(event) {
  event.preventDefault();
  const form = event.target;
  const input = form.elements.question;
  const question = input.value.trim();
  if (!question) return;
  await during(form, async (result) => {
    await needPicture();
    const talk = $('#talk');
    const asked = make('li', {class: 'asked'}, question);
    const said = make('li', {class: 'said'}, '…');
    talk.append(asked, said);
    const model = state.models.find((each) => each.id === $('#model').value);
    try {
      if (model && !model.tasks.includes('vqa')) {
        const began = performance.now();
        const {timings, request} = await chat(model.id, question, said);
        result.replaceChildren(...[timeSplit(timings, model.id, began), copies(request)].filter(Boolean));
      } else {
        const {reply, foot} = await post('v1/vqa', [['question', question]], (text) => { said.textContent = text; });
        const others = reply.answers.slice(1, 4).map((row) => `${row.answer} (${percent(row.score)})`);
        said.replaceChildren(reply.answer || '(nothing)',
          make('small', {}, `${percent(reply.score)} sure` + (others.length ? `; else ${others.join(', ')}` : '')));
        result.replaceChildren(...foot);
      }
      input.value = '';
    } catch (fault) {
      asked.remove();
      said.remove();
      throw fault;
    }
    input.focus();
  });
}

/* ---- searching -------------------------------------------------------------------------------- */

const UPLOAD_BATCH = 8, PAGE_ITEMS = 48;
let galleryPage = {after: null, urls: []};

const collectionName = () => $('#collection-form').elements.collection.value.trim();
const collectionPath = (rest = '') => `v1/collections/${encodeURIComponent(collectionName())}${rest}`;

async function listCollections() {
  const reply = await sendJson('GET', 'v1/collections');
  const rows = reply.collections || reply.data || [];
  $('#collections').replaceChildren(...rows.map((row) => make('option', {value: row.name || row.id})));
}

function emptyGallery() {
  galleryPage.urls.forEach((url) => URL.revokeObjectURL(url));
  galleryPage = {after: null, urls: []};
  $('#gallery').replaceChildren();
  $('#more').hidden = true;
}

/* Pictures come with the key, so they are fetched, not linked; only when they come into view. */
const seen = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    send(collectionPath(`/items/${encodeURIComponent(target.dataset.id)}/image`)).then((reply) => reply.blob()).then((blob) => {
      target.src = URL.createObjectURL(blob);
      galleryPage.urls.push(target.src);
    }).catch(() => { target.alt = target.dataset.id + ' (kept without its picture)'; });
  }
});

function showItem({id, score}) {
  const image = make('img', {alt: id, 'data-id': id});
  const item = make('li', {},
    make('button', {type: 'button', class: 'see', title: `Use ${id} as the picture`, onclick: async () => {
      if (image.src) await usePicture(await (await fetch(image.src)).blob(), id);
    }}, image),
    make('div', {class: 'name'}, make('span', {title: id}, id),
      score === undefined
        ? make('button', {type: 'button', class: 'small quiet', 'aria-label': `Remove ${id}`, onclick: async () => {
          await send(collectionPath(`/items/${encodeURIComponent(id)}`), {method: 'DELETE'});
          item.remove();
        }}, '×')
        : make('span', {class: 'score'}, number(score, 3))));
  $('#gallery').append(item);
  seen.observe(image);
}

async function showPage() {
  const after = galleryPage.after ? `&after=${encodeURIComponent(galleryPage.after)}` : '';
  const reply = await sendJson('GET', collectionPath(`/items?limit=${PAGE_ITEMS}${after}`));
  reply.items.forEach((item) => showItem({id: item.id}));
  galleryPage.after = reply.next || null;
  $('#more').hidden = !galleryPage.after;
  return reply.items.length;
}

async function openCollection(result) {
  emptyGallery();
  const name = collectionName();
  const found = await fetch(collectionPath(), {headers: headers()});
  if (found.status === 404) {
    result.replaceChildren(make('p', {class: 'hint'}, `There is no collection “${name}” yet; adding pictures makes it.`));
    return;
  }
  if (!found.ok) throw new Error(await faultOf(found));
  const about = await found.json();
  await showPage();
  const remove = make('button', {type: 'button', class: 'small quiet', onclick: async () => {
    if (!confirm(`Delete the collection “${name}” and everything in it?`)) return;
    await send(collectionPath(), {method: 'DELETE'});
    await listCollections();
    await during($('#panel-search'), openCollection);
  }}, 'Delete the collection');
  result.replaceChildren(make('p', {class: 'hint'}, `${about.count} item${about.count === 1 ? '' : 's'} in “${name}”, embedded by ${about.model || about.space}. `, remove));
}

async function addPictures(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  await during($('#panel-search'), async (result) => {
    const faults = [];
    let done = 0;
    $('#uploading').hidden = false;
    const tell = () => {
      $('#progress').value = done / pictures.length;
      $('#progress-text').textContent = `${done} of ${pictures.length}`;
    };
    tell();
    try {
      const model = $('#model').value;
      const exists = (await fetch(collectionPath(), {headers: headers()})).ok;
      if (!exists) await sendJson('PUT', collectionPath(), model ? {model} : {});
      for (let at = 0; at < pictures.length; at += UPLOAD_BATCH) {
        const form = new FormData();
        let n = 0;
        for (const file of pictures.slice(at, at + UPLOAD_BATCH)) {
          try {
            const blob = await readable(file);
            form.append('image', blob, blob.name || file.name);
            n++;
          } catch (fault) {
            faults.push(fault.message);
          }
        }
        if (n) {
          const reply = await (await send(collectionPath('/items'), {method: 'POST', body: form})).json();
          for (const row of reply.errors || []) faults.push(`${row.id}: ${row.error.message}`);
        }
        done = Math.min(pictures.length, at + UPLOAD_BATCH);
        tell();
      }
    } finally {
      $('#uploading').hidden = true;
    }
    await listCollections();
    await openCollection(result);
    if (faults.length) result.append(make('p', {class: 'fault', role: 'alert'}, faults.slice(0, 5).map(sentence).join(' ')));
  });
}

async function search(byPicture) {
  await during($('#panel-search'), async (result) => {
    const text = $('#search-form').elements.text.value.trim();
    if (!byPicture && !text) return openCollection(result);
    const path = collectionPath('/search');
    const began = performance.now();
    let reply, request;
    if (byPicture) {
      const picture = await needPicture();
      const fields = [['top_k', '24']];
      reply = await (await send(path, {method: 'POST', body: formOf(fields, picture)})).json();
      request = {path, fields, file: picture.name};
    } else {
      request = {path, json: {text, top_k: 24}};
      reply = await sendJson('POST', path, request.json);
    }
    emptyGallery();
    reply.results.forEach(showItem);
    const n = reply.results.length;
    const what = byPicture ? 'the picture' : `“${text}”`;
    result.replaceChildren(make('p', {class: 'hint'}, n ? `The ${n} nearest to ${what}, best first.` : 'The collection is empty.'),
      ...[timeSplit(reply.timings, reply.model, began), copies(request)].filter(Boolean));
  });
}

/* ---- tabs and models -------------------------------------------------------------------------- */

/* tasks: which models can do it. */
const TABS = [
  {id: 'caption', name: 'Caption', tasks: () => ['caption']},
  {id: 'ask', name: 'Ask', tasks: () => ['vqa', 'chat']},
  {id: 'search', name: 'Search', tasks: () => ['embed']},
  {id: 'classify', name: 'Classify', tasks: () => [$('#panel-classify').elements.mode.value]},
  {id: 'detect', name: 'Detect', tasks: () => ['detect']},
  {id: 'segment', name: 'Segment', tasks: () => ['segment']},
];

const modelsFor = (tasks) => state.models.filter((model) => model.tasks.some((task) => tasks.includes(task)));
const canDo = (tab) => modelsFor(tab.id === 'classify' ? ['classify', 'match'] : tab.tasks()).length > 0;

function fillModels() {
  const tab = TABS.find((each) => each.id === state.tab);
  const tasks = tab.tasks();
  const models = modelsFor(tasks);
  const select = $('#model');
  select.replaceChildren(...models.map((model) => make('option', {value: model.id}, model.id)));
  const preferred = state.chosen[tasks[0]] || tasks.map((task) => state.defaults[task]).find(Boolean);
  if (preferred && models.some((model) => model.id === preferred)) select.value = preferred;
  aboutModel();
}

function aboutModel() {
  const model = state.models.find((each) => each.id === $('#model').value);
  $('#model-about').textContent = model
    ? `${model.architecture}, ${number(model.parameters / 1e6)} M parameters, ${model.dtype}` : '';
}

function chooseTab(id, focus) {
  const tab = TABS.find((each) => each.id === id && canDo(each)) || TABS.find(canDo);
  if (!tab) return;
  state.tab = tab.id;
  for (const button of $('#tabs').children) {
    const on = button.id === 'tab-' + tab.id;
    button.setAttribute('aria-selected', String(on));
    button.tabIndex = on ? 0 : -1;
    if (on && focus) button.focus();
  }
  for (const each of TABS) $('#panel-' + each.id).hidden = each !== tab;
  clearDrawings();
  fillModels();
  history.replaceState(null, '', '#' + tab.id);
  if (tab.id === 'search' && !$('#gallery').children.length) {
    listCollections().catch(() => {});
    during($('#panel-search'), openCollection);
  }
}

function makeTabs() {
  const tabs = TABS.filter(canDo);
  $('#tabs').replaceChildren(...tabs.map((tab) => make('button', {type: 'button', role: 'tab', id: 'tab-' + tab.id,
    'aria-controls': 'panel-' + tab.id, onclick: () => chooseTab(tab.id)}, tab.name)));
  for (const tab of TABS) $('#panel-' + tab.id).setAttribute('aria-labelledby', 'tab-' + tab.id);
  const modes = ['classify', 'match'].map((mode) => modelsFor([mode]).length > 0);
  for (const [i, radio] of [...document.querySelectorAll('#how input')].entries()) {
    radio.disabled = !modes[i];
    radio.checked = modes[i] && (i === 0 || !modes[0]);
  }
  chooseMode();
}

function chooseMode() {
  $('#template').hidden = $('#panel-classify').elements.mode.value === 'match';
  if (state.tab === 'classify') fillModels();
}

$('#tabs').addEventListener('keydown', (event) => {
  const buttons = [...$('#tabs').children];
  const now = buttons.findIndex((button) => button.getAttribute('aria-selected') === 'true');
  const next = {ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: buttons.length - 1}[event.key];
  if (next === undefined) return;
  event.preventDefault();
  chooseTab(buttons[(next + buttons.length) % buttons.length].id.slice(4), true);
});

async function look() {
  const served = $('#served');
  try {
    const info = await sendJson('GET', 'info');
    state.models = info.models;
    state.defaults = info.defaults || {};
    $('#version').textContent = `vlmd ${info.version}`;
    served.className = '';
    served.textContent = state.models.length
      ? `Serves ${state.models.map((model) => model.id).join(', ')}.` : 'No models are served.';
    makeTabs();
    chooseTab(location.hash.slice(1) || state.tab);
  } catch (fault) {
    served.textContent = fault.message;
    served.className = 'fault';
    if (/loading/.test(fault.message)) setTimeout(look, 1000);
  }
}

/* ---- wiring ----------------------------------------------------------------------------------- */

window.addEventListener('hashchange', () => chooseTab(location.hash.slice(1)));
$('#panel-caption').addEventListener('submit', caption);
$('#panel-ask').addEventListener('submit', ask);
$('#panel-classify').addEventListener('submit', compare);
$('#panel-detect').addEventListener('submit', detect);
$('#panel-segment').addEventListener('submit', segment);
$('#how').addEventListener('change', chooseMode);
$('#forget').addEventListener('click', () => { forget(); $('#panel-ask .result').replaceChildren(); });
$('#model').addEventListener('change', () => {
  const tab = TABS.find((each) => each.id === state.tab);
  state.chosen[tab.tasks()[0]] = $('#model').value;
  if (state.tab === 'ask') forget();
  aboutModel();
});

$('#collection-form').addEventListener('submit', (event) => {
  event.preventDefault();
  during($('#panel-search'), openCollection);
});
$('#search-form').addEventListener('submit', (event) => { event.preventDefault(); search(false); });
$('#similar').addEventListener('click', () => search(true));
$('#more').addEventListener('click', () => showPage().catch(() => {}));
$('#many').addEventListener('change', (event) => {
  if ($('#collection-form').reportValidity()) addPictures(event.target.files).finally(() => { event.target.value = ''; });
});

$('#file').addEventListener('change', (event) => {
  const file = event.target.files[0];
  if (file) usePicture(file, file.name);
});
for (const button of $('#samples').children)
  button.addEventListener('click', () => useSample(button.dataset.sample));

/* Pictures may be dropped anywhere: on the search tab several of them go into the collection. */
function take(files) {
  const pictures = [...files].filter((file) => file.type.startsWith('image/'));
  if (!pictures.length) $('#about').textContent = 'That is not a picture.';
  else if (state.tab === 'search' && pictures.length > 1) addPictures(pictures);
  else usePicture(pictures[0], pictures[0].name || 'pasted.png');
}
document.addEventListener('dragover', (event) => { event.preventDefault(); $('#drop').classList.add('over'); });
document.addEventListener('dragleave', () => $('#drop').classList.remove('over'));
document.addEventListener('drop', (event) => {
  event.preventDefault();
  $('#drop').classList.remove('over');
  take(event.dataTransfer.files);
});
document.addEventListener('paste', (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
const themes = [...document.querySelectorAll('input[name=theme]')];
for (const radio of themes) {
  radio.addEventListener('change', () => { applyTheme(radio.value); localStorage.setItem('theme', radio.value); });
  if (radio.value === (localStorage.getItem('theme') || '')) radio.checked = true;
}
applyTheme(localStorage.getItem('theme'));

$('#key').value = sessionStorage.getItem('key') || '';
$('#key').addEventListener('change', (event) => {
  sessionStorage.setItem('key', event.target.value.trim());
  look();
});
look();
