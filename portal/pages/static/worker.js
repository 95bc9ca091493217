// Service worker: keeps the files of the shell and the page to photograph on the phone, and sends what waits as soon as
// there is a line.  It keeps nothing of a patient: no answer of the node but those below is ever stored.
"use strict";

importScripts("QUEUE");

const FILES = "KEPT";
const SHELL = "files-VERSION", PAGES = "pages";
const PATIENCE_MS = 8000;

// Fetched as nobody, so that no page of a person is among them.
self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(SHELL).then((cache) => cache.addAll(FILES.map((url) => new Request(url, { credentials: "omit" })))).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("files-") && name !== SHELL) await caches.delete(name);
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  if (url.pathname.startsWith("/static/")) event.respondWith(file(event.request));
  else if (event.request.mode === "navigate") event.respondWith(page(event.request, url.pathname));
});

self.addEventListener("sync", (event) => {
  if (event.tag !== "uploads") return;
  // A sync that fails is tried again by the browser.
  event.waitUntil(luna.queue.rest().then((outcome) => { if (outcome === "no-line") throw new Error("no line"); }));
});

async function file(request) {
  return (await caches.match(request)) || fetch(request);
}

async function page(request, path) {
  try {
    // On a bad line nobody waits for a page that is on the phone already.
    return await (path === "/analyse" ? Promise.race([fetch(request), tooLate()]) : fetch(request));
  } catch {
    const kept = path === "/analyse" ? await (await caches.open(PAGES)).match("/analyse") : undefined;
    if (kept) return kept;
    for (const name of [PAGES, SHELL]) {
      const found = await (await caches.open(name)).match("/offline", { ignoreSearch: true });
      if (found) return found;
    }
    return Response.error();
  }
}

const tooLate = () => new Promise((_, reject) => { setTimeout(() => reject(new Error("too late")), PATIENCE_MS); });
