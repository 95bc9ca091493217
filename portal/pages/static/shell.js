// What every page does: says when the line is gone, keeps htmx honest, and installs the worker that keeps the pages.
"use strict";

const line = document.getElementById("line");
const sayLine = () => { if (line) line.hidden = navigator.onLine; };
window.addEventListener("online", sayLine);
window.addEventListener("offline", sayLine);
sayLine();

// htmx sends what a form would send; the token of the session goes as a header, so parts need no hidden field.
document.body.addEventListener("htmx:configRequest", (event) => {
  const token = document.body.dataset.csrf;
  if (event.detail.elt.closest("[data-unattended]")) event.detail.headers["X-Unattended"] = "yes";
  if (token && event.detail.verb !== "get") event.detail.headers["X-CSRF-Token"] = token;
});

// A session that ended while a page was open: the answer is the way to sign in, not a piece for the middle of a page.
document.body.addEventListener("htmx:beforeOnLoad", (event) => {
  if (event.detail.xhr.status === 401) {
    event.preventDefault();
    window.location.assign("/sign-in?next=" + encodeURIComponent(window.location.pathname));
  }
});

// The place in a row of places that is wider than the phone.
const place = document.querySelector(".subnav [aria-current]");
if (place) place.scrollIntoView({ inline: "center", block: "nearest" });

// A button that sends a form is pressed once; one that fetches a file leaves the page as it is.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.dataset.sent) { if (form.dataset.sent) event.preventDefault(); return; }
  if (form.method === "post" && !form.hasAttribute("hx-post") && !("download" in form.dataset)) form.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// <button data-opens="id"> opens a dialog; [data-closes] inside it closes it.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  const closer = event.target.closest("[data-closes]");
  if (closer) closer.closest("dialog").close();
});

// What waits on this phone goes when a page opens, when the line comes back, and every half minute while there is none.
self.luna = self.luna || {};
let again = 0;
luna.send = async () => {
  clearTimeout(again);
  const sending = luna.queue.send();
  // Not only when it has failed: the page may be closed while it is sending.
  luna.queue.later().catch(() => {});
  const outcome = await sending;
  if (outcome === "no-line") again = setTimeout(luna.send, 30_000);
  else if (outcome === "busy") again = setTimeout(luna.send, 5_000);
  else if (outcome === "fault") again = setTimeout(luna.send, 600_000);
  document.dispatchEvent(new CustomEvent("luna:line", { detail: outcome }));
};
// A page that was kept on the phone has no token of the session: it is fetched when there is a line.
const renew = async () => {
  const answer = await fetch("/account/token", { headers: { Accept: "application/json", "X-Unattended": "yes" } });
  if (answer.ok) document.body.dataset.csrf = (await answer.json()).csrf;
};
if (luna.queue && document.body.dataset.user) {
  const online = () => {
    if (!document.body.dataset.csrf) renew().catch(() => {});
    luna.send().catch(() => {});
  };
  window.addEventListener("online", online);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && navigator.onLine) online(); });
  if (navigator.onLine) online();
}

// The page for times without a line, in the reader's language.
const keepOffline = async () => {
  const cache = await caches.open("pages"), wanted = `/offline?language=${document.documentElement.lang}`;
  if (await cache.match(wanted)) return;
  await cache.delete("/offline", { ignoreSearch: true });
  await cache.add(new Request(wanted, { credentials: "omit" }));
};
if ("caches" in window && document.body.dataset.user) keepOffline().catch(() => {});

if ("serviceWorker" in navigator) navigator.serviceWorker.register("/worker.js", { scope: "/" }).catch(() => {});
