// What waits on this phone to be sent: each photograph with what was said of it, kept (IndexedDB) before it is sent and
// let go when the node has said that it has it.  The same file runs in pages and in the service worker.
//
// Sent once: each has a name of its own (Idempotency-Key) under which the node knows it, however often it is sent; and of
// all pages and the worker only one sends at a time (Web Locks).
"use strict";

self.luna = self.luna || {};

const STORE = "uploads";
const STALLED_MS = 60_000;
const SEND_TO = "/api/v1/analyses";

const opened = () => new Promise((resolve, reject) => {
  const asked = indexedDB.open("luna", 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, { keyPath: "id" });
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
});

async function inStore(mode, act) {
  const database = await opened();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode, { durability: "strict" });
      const asked = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

const channel = "BroadcastChannel" in self ? new BroadcastChannel("luna-uploads") : null;
const tell = (what) => {
  if (channel) channel.postMessage(what);
  if (typeof document !== "undefined") document.dispatchEvent(new CustomEvent("luna:uploads", { detail: what }));
};
if (channel && typeof document !== "undefined")
  channel.onmessage = (event) => document.dispatchEvent(new CustomEvent("luna:uploads", { detail: event.data }));

luna.queue = {
  // Oldest first.
  async all() {
    const found = await inStore("readonly", (store) => store.getAll());
    return found.sort((one, other) => one.made.localeCompare(other.made));
  },

  // Keeps a photograph; when this resolves it survives the page, the browser and the phone being switched off.
  async keep(owner, fields, photo) {
    const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const bytes = await photo.arrayBuffer();  // bytes and not the file, which may be gone from the gallery later
    const language = document.documentElement.lang;  // in which a refusal is to be said, whatever the browser's own is
    const entry = { id, owner, fields, language, made: new Date().toISOString(), type: photo.type, bytes, state: "waiting", reason: null };
    await inStore("readwrite", (store) => store.put(entry));
    if (navigator.storage && navigator.storage.persist) navigator.storage.persist().catch(() => {});
    tell({ kind: "kept", id });
    return id;
  },

  async remove(id) {
    await inStore("readwrite", (store) => store.delete(id));
    tell({ kind: "gone", id });
  },

  // Tries to send everything that waits.  Says "done", "busy" (somebody else is at it), "no-line", "sign-in", or "fault"
  // when all has gone but what the node made a fault of.
  async send() {
    if (!navigator.locks) return sendAll();
    return navigator.locks.request("luna-uploads", { ifAvailable: true }, (lock) => lock ? sendAll() : "busy");
  },

  // For the worker: sends what is left when no page is sending any more, also because it was closed while it did.
  async rest() {
    return navigator.locks ? navigator.locks.request("luna-uploads", sendAll) : sendAll();
  },

  // Asks the browser to send what waits as soon as there is a line, even when the page is closed (Background Sync; where
  // there is none, as on an iPhone, a page of the portal sends it as soon as one is open).
  async later() {
    if (!("serviceWorker" in navigator)) return;
    if (!(await luna.queue.all()).some((one) => one.state === "waiting")) return;
    const registration = await navigator.serviceWorker.ready;
    if ("sync" in registration) await registration.sync.register("uploads").catch(() => {});
  },
};

async function sendAll() {
  const waiting = (await luna.queue.all()).filter((one) => one.state === "waiting");
  if (!waiting.length) return "done";
  const session = await sessionNow();
  if (typeof session === "string") return session;
  let ended = "done";
  for (const entry of waiting.filter((one) => one.owner === session.user)) {
    const outcome = await sendOne(entry, session.csrf);
    if (outcome === "fault") ended = "fault";  // of this one alone: those behind it go all the same
    else if (outcome !== "sent" && outcome !== "refused") return outcome;
  }
  return ended;
}

async function sessionNow() {
  try {
    const answer = await fetch("/account/token", {
      headers: { Accept: "application/json", "X-Unattended": "yes" },
      redirect: "error", cache: "no-store", signal: AbortSignal.timeout && AbortSignal.timeout(20_000),
    });
    if (answer.status === 401) return "sign-in";
    const told = answer.ok ? await answer.json() : {};
    return told.csrf && told.user ? told : "no-line";
  } catch {
    return "no-line";
  }
}

async function sendOne(entry, csrf) {
  const form = new FormData();
  for (const [name, value] of Object.entries(entry.fields)) if (value) form.append(name, value);
  form.append("image", new Blob([entry.bytes], { type: entry.type }), "photograph");
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf, "Idempotency-Key": entry.id };
  if (entry.language) headers["Accept-Language"] = entry.language;
  tell({ kind: "going", id: entry.id, percent: 0 });
  let answer;
  try {
    answer = await post(form, headers, (percent) => tell({ kind: "going", id: entry.id, percent }));
  } catch {
    tell({ kind: "waits", id: entry.id });
    return "no-line";
  }
  // Only what the node itself says counts: the sign-in page of somebody's wireless network is no answer of ours.
  if (answer.status < 300 && /^[0-9a-f]{32}$/.test(answer.body.id || "")) {
    await inStore("readwrite", (store) => store.delete(entry.id));
    tell({ kind: "sent", id: entry.id, analysis: answer.body.id });
    return "sent";
  }
  const isOurs = String(answer.body.type || "").startsWith("urn:ainode:problem:");
  if (isOurs && [400, 409, 413, 415, 422].includes(answer.status)) {
    const reason = { title: String(answer.body.title || ""), detail: String(answer.body.detail || "") };
    await inStore("readwrite", (store) => store.put({ ...entry, state: "refused", reason }));
    tell({ kind: "refused", id: entry.id, reason });
    return "refused";
  }
  tell({ kind: "waits", id: entry.id });
  if (isOurs && answer.status === 500) return "fault";
  return isOurs && [401, 403].includes(answer.status) ? "sign-in" : "no-line";
}

// POST with the share that has gone; gives up when nothing moves any more.  The worker has no XMLHttpRequest, and says no share.
function post(form, headers, report) {
  if (typeof XMLHttpRequest === "undefined")
    return fetch(SEND_TO, { method: "POST", body: form, headers, redirect: "error" })
      .then(async (answer) => ({ status: answer.status, body: parsed(await answer.text()) }));
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let watch;
    const alive = () => { clearTimeout(watch); watch = setTimeout(() => request.abort(), STALLED_MS); };
    request.open("POST", SEND_TO);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => { alive(); if (event.lengthComputable) report(Math.floor(100 * event.loaded / event.total)); };
    request.onload = () => { clearTimeout(watch); resolve({ status: request.status, body: parsed(request.responseText) }); };
    for (const end of ["error", "abort", "timeout"]) request.addEventListener(end, () => { clearTimeout(watch); reject(new Error(end)); });
    alive();
    request.send(form);
  });
}

function parsed(text) {
  try {
    const told = JSON.parse(text);
    return told && typeof told === "object" ? told : {};
  } catch {
    return {};
  }
}
