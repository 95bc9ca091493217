// Service worker: keeps the files of the shell on the phone and nothing else.
"use strict";

const FILES = "KEPT";
const CACHE = "files-1";

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});
