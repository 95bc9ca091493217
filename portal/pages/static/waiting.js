// Shows what waits on this phone, and lets its owner send or delete it.
"use strict";

(() => {
  const box = document.getElementById("waiting");
  if (!box || !self.luna || !luna.queue) return;
  const list = document.getElementById("waiting-list"), said = document.getElementById("waiting-said");
  const going = new Map();
  const owner = () => document.body.dataset.user || "";

  const nameOf = (entry) => {
    if (!entry.fields.patient) return box.dataset.withoutIdentity;
    const patient = JSON.parse(entry.fields.patient);
    return [patient.name.split("^").reverse().join(" ").trim(), patient.id].filter(Boolean).join(" · ");
  };
  const stateOf = (entry) => {
    if (entry.state === "refused") return [box.dataset.refused, entry.reason.title, entry.reason.detail].filter(Boolean).join(" ");
    return going.has(entry.id) ? box.dataset.going.replace("%", going.get(entry.id)) : box.dataset.waits;
  };
  const draw = async () => {
    const all = await luna.queue.all().catch(() => []);
    const mine = owner() ? all.filter((one) => one.owner === owner()) : [];
    const others = all.length - mine.length;
    box.hidden = !all.length;
    const held = document.activeElement.dataset.delete;
    list.replaceChildren(...mine.map((entry) => {
      const row = document.getElementById("waiting-one").content.cloneNode(true).firstElementChild;
      row.querySelector("[data-who]").textContent = nameOf(entry);
      row.querySelector("[data-when]").textContent = new Date(entry.made).toLocaleString(document.documentElement.lang);
      row.querySelector("[data-state]").textContent = stateOf(entry);
      const button = row.querySelector("[data-delete]");
      button.dataset.delete = entry.id;
      button.addEventListener("click", async () => {
        if (window.confirm(box.dataset.deleteSure)) await luna.queue.remove(entry.id);
      });
      return row;
    }));
    // Drawn anew with every piece that went: whoever stood on a button still stands there.
    if (held) (list.querySelector(`[data-delete="${held}"]`) || document.getElementById("main")).focus();
    said.textContent = others ? (owner() ? box.dataset.ofOthers : box.dataset.onPhone).replace("%", others) : "";
    document.getElementById("send-now").hidden = !mine.some((one) => one.state === "waiting");
  };
  document.addEventListener("luna:uploads", ({ detail }) => {
    if (detail.kind === "going") going.set(detail.id, detail.percent); else going.delete(detail.id);
    draw();
  });
  document.addEventListener("luna:line", ({ detail }) => {
    if (detail === "sign-in" && owner()) said.textContent = box.dataset.signInFirst;
  });
  document.getElementById("send-now").addEventListener("click", () => luna.send());
  draw();
})();
