// Files that somebody drops or chooses go up in one form, with a bar that says how far they are.
"use strict";

const form = document.getElementById("bring");
if (form) {
  const chosen = document.getElementById("files");
  const folder = document.getElementById("folder");
  const bar = document.getElementById("sent");
  const said = document.getElementById("said");
  const stop = document.getElementById("stop");
  const drop = document.getElementById("drop");
  const words = form.dataset;
  let going = null;

  const say = (text, isTrouble) => {
    said.textContent = text;
    said.className = isTrouble ? "error" : "muted";
  };
  const rest = () => {
    going = null;
    bar.hidden = stop.hidden = true;
    form.removeAttribute("aria-busy");
    chosen.value = folder.value = "";
  };

  const send = (files) => {
    if (going || !files.length) return;
    const body = new FormData();
    for (const file of files) body.append("files", file, file.name);
    going = new XMLHttpRequest();
    going.open("POST", form.action);
    going.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
    going.setRequestHeader("Accept", "application/json");
    going.responseType = "json";
    going.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      bar.max = event.total;
      bar.value = event.loaded;
      const share = Math.floor((100 * event.loaded) / event.total);
      say(event.loaded < event.total ? words.sending.replace("{share}", share) : words.looking);
    });
    going.addEventListener("load", () => {
      const answer = going.response || {};
      if (going.status === 201) { window.location.assign(answer.location); return; }
      if (going.status === 401) { window.location.assign("/sign-in?next=/study"); return; }
      say([answer.title || words.failed, answer.detail].filter(Boolean).join(" "), true);
      rest();
    });
    going.addEventListener("error", () => { say(words.failed, true); rest(); });
    going.addEventListener("abort", () => { say(words.stopped); rest(); });
    bar.hidden = stop.hidden = false;
    bar.removeAttribute("value");
    form.setAttribute("aria-busy", "true");
    say(words.sending.replace("{share}", 0));
    going.send(body);
  };

  // A folder is walked through: its files, and those of the folders inside.
  const inside = (entry) => new Promise((done) => {
    if (entry.isFile) { entry.file((file) => done([file]), () => done([])); return; }
    const reader = entry.createReader();
    const found = [];
    const more = () => reader.readEntries(async (entries) => {
      if (!entries.length) { done((await Promise.all(found.map(inside))).flat()); return; }
      found.push(...entries);
      more();
    }, () => done([]));
    more();
  });

  for (const input of [chosen, folder]) input.addEventListener("change", () => send([...input.files]));
  stop.addEventListener("click", () => { if (going) going.abort(); });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    send(entries.every(Boolean) ? (await Promise.all(entries.map(inside))).flat() : [...event.dataTransfer.files]);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}
