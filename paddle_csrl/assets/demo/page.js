"use strict";
// The page: the server tells the state (classes, images, what is being done) and, for an image,
// the class of every pixel; colouring, hiding and pointing need no server.

const POLL_MS = 50;
const byId = (id) => document.getElementById(id);
const hidden = new Set(); // names of the classes switched off, kept while classes come and go
let state = null;
let chosen = null; // id of the image
let labels = null; // {width, height, ids: class of every pixel, shares: by class}
let timer = 0; // of the next look at a change that is being made
let drawing = 0; // counts the pictures asked for, so that a late one is dropped

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is tools/demo.py still running?");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error || `the server answered ${response.status}`);
  }
  return response;
}

function showError(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
}

// Runs an action of the user; what goes wrong is one line on the page.
async function attempt(action) {
  showError(null);
  try {
    await action();
  } catch (error) {
    showError(error);
  }
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// State -----------------------------------------------------------------------------------------

async function refresh() {
  const before = state;
  state = await (await ask("api/state")).json();
  const newest = ({images}) => images.at(-1)?.id;
  if (!before || newest(before) !== newest(state)) showGallery();
  showStatus();
  if (!before || before.version !== state.version) {
    labels = null; // ids of the classes before
    showLegend();
    if (before) byId("name").value = ""; // it stays where it was refused, to be corrected
    if (chosen !== null) await showImage(chosen);
  }
  clearTimeout(timer);
  if (state.task) timer = setTimeout(() => refresh().catch(showError), POLL_MS);
}

function showStatus() {
  byId("run").textContent = state.run;
  byId("images-note").textContent = state.images_note;
  byId("images-note").hidden = !state.images_note;
  const {task, message} = state;
  byId("status").textContent = task ? `${task.text} … ${task.seconds.toFixed(0)} s`
    : message ? message.text : "";
  byId("progress").hidden = !task;
  byId("progress").value = task ? task.share : 0;
  byId("status").className = task ? "busy" : message && message.is_error ? "error" : "";
  for (const button of document.querySelectorAll("#add-button, .remove")) {
    button.disabled = Boolean(task);
  }
}

// Images ----------------------------------------------------------------------------------------

function showGallery() {
  byId("gallery").replaceChildren(...state.images.map(({id, title}) => {
    const thumbnail = element("img", {src: `api/images/${id}/thumbnail`, alt: title});
    thumbnail.loading = "lazy";
    const button = element("button", {title, onclick: () => attempt(() => choose(id))}, thumbnail);
    button.dataset.id = id;
    return button;
  }));
  markChosen();
}

function markChosen() {
  for (const button of byId("gallery").children) {
    button.setAttribute("aria-pressed", button.dataset.id === String(chosen));
  }
}

async function choose(id) {
  chosen = id;
  markChosen();
  await showImage(id);
}

async function showImage(id) {
  const number = ++drawing;
  byId("viewer").classList.add("stale");
  try {
    const [picture, answer] = await Promise.all(
      [ask(`api/images/${id}/picture`), ask(`api/images/${id}/label`)]);
    if (Number(answer.headers.get("X-Version")) !== state.version) {
      return await refresh(); // the classes have changed in between; it shows the image again
    }
    const [ids, content] = [new Uint8Array(await answer.arrayBuffer()), await picture.blob()];
    if (number !== drawing) return;
    const [height, width] = answer.headers.get("X-Shape").split(" ").map(Number);
    labels = {width, height, ids, shares: classShares(ids)};
    URL.revokeObjectURL(byId("image").src);
    byId("image").src = byId("backdrop").src = URL.createObjectURL(content);
    await byId("backdrop").decode();
    byId("title").textContent = state.images.find((image) => image.id === id).title;
    paint();
    showLegend();
  } finally {
    if (number === drawing) byId("viewer").classList.remove("stale");
  }
}

function classShares(ids) {
  const shares = new Float64Array(256);
  for (const id of ids) shares[id] += 1 / ids.length;
  return shares;
}

// Colours the classes that are not hidden; the canvas is transparent elsewhere.
function paint() {
  if (!labels) return;
  const canvas = byId("mask");
  Object.assign(canvas, {width: labels.width, height: labels.height});
  const colors = new Uint8ClampedArray(4 * 256);
  for (const {id, name, color} of state.classes) {
    if (!hidden.has(name)) colors.set([...color, 255], 4 * id);
  }
  const table = new Uint32Array(colors.buffer);
  const image = new ImageData(labels.width, labels.height);
  const pixels = new Uint32Array(image.data.buffer);
  labels.ids.forEach((id, place) => { pixels[place] = table[id]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function point(event) {
  if (!labels) return;
  const box = byId("mask").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / box.width * labels.width);
  const row = Math.floor((event.clientY - box.top) / box.height * labels.height);
  const id = labels.ids[row * labels.width + column];
  const found = state.classes.find((entry) => entry.id === id);
  byId("pointed").textContent = found ? found.name + (found.unseen ? " ★" : "") : "";
}

// Classes ---------------------------------------------------------------------------------------

function showLegend() {
  const share = (entry) => labels ? labels.shares[entry.id] || 0 : 0;
  // Those in the picture first, each group in the order of the ids.
  const entries = [...state.classes].sort((a, b) => (share(b) > 0) - (share(a) > 0));
  byId("legend").replaceChildren(...entries.map((entry) => legendRow(entry, share(entry))));
}

function legendRow(entry, share) {
  const box = element("input", {type: "checkbox", checked: !hidden.has(entry.name)});
  box.onchange = () => { setHidden([entry.name], !box.checked); };
  const chip = element("span", {className: "chip"});
  chip.style.background = `rgb(${entry.color.join(" ")})`;
  const percent = !share ? "" : share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
  const label = element("label", {title: entry.name}, box, chip,
    element("span", {className: "name", textContent: entry.name}),
    ...(entry.unseen ? [element("span", {className: "star", textContent: "★"})] : []),
    element("span", {className: "share", textContent: percent}));
  const row = element("li", {}, label);
  row.classList.toggle("unseen", entry.unseen);
  row.classList.toggle("absent", !share);
  if (entry.unseen) {
    const remove = element("button", {className: "remove", textContent: "✕"});
    remove.title = `remove ${entry.name}`;
    remove.disabled = Boolean(state.task);
    remove.onclick = () => attempt(() => change("DELETE", entry.name));
    row.append(remove);
  }
  return row;
}

function setHidden(names, isHidden) {
  for (const name of names) {
    if (isHidden) hidden.add(name);
    else hidden.delete(name);
  }
  paint();
}

async function change(method, name) {
  try {
    await ask("api/classes", {method, headers: {"Content-Type": "application/json"},
      body: JSON.stringify({name})});
  } catch (error) {
    state.message = {text: error.message, is_error: true};
    return showStatus();
  }
  await refresh();
}

// Events ----------------------------------------------------------------------------------------

byId("add").onsubmit = (event) => {
  event.preventDefault();
  attempt(() => change("POST", byId("name").value));
};

byId("file").onchange = () => attempt(async () => {
  const form = new FormData();
  form.append("file", byId("file").files[0]);
  byId("file").value = ""; // the same file may be chosen again
  const {id} = await (await ask("api/images", {method: "POST", body: form})).json();
  await refresh();
  await choose(id);
});

for (const [button, isHidden] of [["show-all", false], ["hide-all", true]]) {
  byId(button).onclick = () => {
    setHidden(state.classes.map(({name}) => name), isHidden);
    showLegend();
  };
}
byId("opacity").oninput = () => { byId("mask").style.opacity = byId("opacity").value / 100; };
byId("mask").onmousemove = point;
byId("mask").onmouseleave = () => { byId("pointed").textContent = ""; };

attempt(async () => {
  await refresh();
  if (state.images.length) await choose(state.images[0].id);
});
