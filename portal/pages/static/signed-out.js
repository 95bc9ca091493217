// After somebody has signed out, her pages leave the phone; what waits to be sent stays, and is told as a number only.
"use strict";

(() => {
  if ("caches" in window) caches.delete("pages").catch(() => {});
  if (!("indexedDB" in window) || !self.luna) return;
  luna.queue.all().then((all) => {
    const box = document.getElementById("kept"), text = box.querySelector("[data-text]");
    text.textContent = text.dataset.text.replace("%", all.length);
    box.hidden = !all.length;
  }).catch(() => {});
})();
