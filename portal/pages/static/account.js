// The offer to install, where the browser makes one.
"use strict";

const card = document.getElementById("install");
let offer = null;
window.addEventListener("beforeinstallprompt", (event) => {
  event.preventDefault();
  offer = event;
  card.hidden = false;
});
document.getElementById("install-button").addEventListener("click", async () => {
  if (!offer) return;
  await offer.prompt();
  offer = null;
  card.hidden = true;
});
