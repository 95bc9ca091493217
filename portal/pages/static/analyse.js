// The page on which a photograph is asked about: whose, the picture, the doctor's own impression; then kept and sent.
"use strict";

(() => {
  const form = document.getElementById("analyse");
  if (!form) return;
  const byId = (id) => document.getElementById(id);
  const told = byId("words").dataset;
  const camel = (key) => key.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
  const value = (name) => {
    const field = form.elements.namedItem(name);
    return field ? String(field.value || "").trim() : "";
  };
  const show = (id, visible) => { byId(id).hidden = !visible; };
  const complain = (id, key) => {
    byId(id).querySelector("span").textContent = key ? told[camel(key)] : "";
    show(id, Boolean(key));
  };

  // -- whose

  const types = byId("patient_type"), identifier = byId("patient_id"), who = byId("who");
  const everyType = Array.from(types.options);
  const check = () => types.selectedOptions[0] ? types.selectedOptions[0].dataset.check : "";
  const isAnonymous = () => value("identity") === "no";

  const showTypes = () => {
    const site = byId("site").value;
    types.replaceChildren(...everyType.filter((one) => one.dataset.site === site));
    types.selectedIndex = 0;
    types.closest(".field").hidden = types.options.length < 2;
  };
  const forget = () => { who.replaceChildren(); complain("patient_id-error", ""); };
  byId("site").addEventListener("change", () => { showTypes(); forget(); });
  types.addEventListener("change", forget);
  identifier.addEventListener("input", forget);
  for (const radio of form.querySelectorAll("[name=identity]"))
    radio.addEventListener("change", () => { show("identified", !isAnonymous()); show("anonymous", isAnonymous()); });
  showTypes();

  const byHand = () => who.replaceChildren(byId("by-hand").content.cloneNode(true));
  const lookUp = byId("look-up");
  lookUp.addEventListener("htmx:confirm", (event) => {
    event.preventDefault();
    const text = identifier.value.trim();
    if (!text) return complain("patient_id-error", "id-missing");
    if (!luna.identifierFits(check(), text)) return complain("patient_id-error", "check-failed");
    complain("patient_id-error", "");
    if (!navigator.onLine) byHand(); else event.detail.issueRequest(true);
  });
  for (const trouble of ["htmx:sendError", "htmx:timeout", "htmx:responseError"])
    lookUp.addEventListener(trouble, (event) => { if (!event.detail.xhr || event.detail.xhr.status !== 401) byHand(); });
  identifier.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); lookUp.click(); }
  });
  byId("recent").addEventListener("click", (event) => {
    const one = event.target.closest("[data-recent]");
    if (!one) return;
    if (byId("site").tagName === "SELECT") { byId("site").value = one.dataset.site; showTypes(); }
    types.value = one.dataset.type;
    identifier.value = one.dataset.id;
    forget();
    lookUp.click();
  });
  luna.canScan().then((can) => { byId("scan").hidden = !can; });
  byId("scan").addEventListener("click", async () => {
    const found = await luna.scan(byId("scanner"), (text) => luna.identifierIn(check(), text));
    if (!found) return;
    identifier.value = found;
    forget();
    lookUp.click();
  });

  const patient = () => {
    if (isAnonymous()) return null;
    const clean = (text) => text.replace(/[\^=\\]/g, " ").replace(/\s+/g, " ").trim();
    const family = clean(value("patient_family")), given = clean(value("patient_given"));
    return {
      id: value("patient_normal") || identifier.value.trim(),
      type: types.value,
      name: value("patient_name") || (family || given ? `${family}^${given}` : ""),
      birth_date: value("patient_birth_date"),
      sex: value("patient_sex"),
      confirmed: Boolean(form.querySelector("[name=patient_confirmed]:checked")),
    };
  };
  const whoLine = () => {
    if (isAnonymous()) return told.withoutIdentity;
    const found = form.querySelector("[name=patient_name]");
    const name = found ? found.dataset.shown : `${value("patient_given")} ${value("patient_family")}`.trim();
    return [name, patient().id].filter(Boolean).join(" · ");
  };

  // What is still missing of the patient: the key of a sentence and the field it is about; nothing when all is there.
  const missing = () => {
    if (isAnonymous()) return null;
    const text = identifier.value.trim();
    if (!text) return ["id-missing", identifier];
    if (!luna.identifierFits(check(), text)) return ["check-failed", identifier];
    const card = who.querySelector(".patient");
    if (!card) return ["", lookUp];
    if (card.dataset.state !== "found") {
      for (const name of ["patient_family", "patient_given"]) if (!value(name)) return ["name-missing", byId(name)];
      if (!value("patient_birth_date")) return ["born-missing", byId("patient_birth_date")];
      if (new Date(value("patient_birth_date")) > new Date()) return ["born-in-future", byId("patient_birth_date")];
    }
    const box = card.querySelector("[name=patient_confirmed]");
    return box.checked ? null : ["confirm-missing", box];
  };

  // -- the picture

  const photograph = new luna.Photograph(byId("canvas"), byId("zoom"), () => {
    clearTimeout(photograph.timer);
    photograph.timer = setTimeout(hint, 250);
  });
  const limits = JSON.parse(form.dataset.limits);
  const hint = () => {
    const { pixels, shorterSide } = photograph.small();
    const found = luna.hintsFor(luna.measure(pixels), shorterSide, limits);
    byId("hints").replaceChildren(...(found.length ? found : limits.brightness ? ["hint-good"] : []).map((key) => {
      const line = document.createElement("p");
      line.className = `notice ${key === "hint-good" ? "ok" : "warning"}`;
      line.textContent = told[camel(key)];
      return line;
    }));
  };
  for (const input of [byId("camera"), byId("gallery")])
    input.addEventListener("change", async () => {
      const file = input.files[0];
      input.value = "";
      if (!file) return;
      complain("photo-error", "");
      try {
        await photograph.take(file, Number(form.dataset.maxBytes));
        show("preview", true);
        byId("pickers").classList.add("again");
        for (const label of byId("pickers").children) label.classList.remove("primary", "large");
        byId("photo-go").disabled = false;
      } catch (error) {
        complain("photo-error", `photo-${["heic", "large"].includes(error.message) ? error.message : "unreadable"}`);
      }
    });
  for (const radio of form.querySelectorAll("[name=kind]"))
    radio.addEventListener("change", () => show("kind-plain", value("kind") === "plain"));

  // -- the lesion

  byId("bodySite").addEventListener("change", () => {
    const isPaired = Boolean(byId("bodySite").selectedOptions[0].dataset.paired);
    show("sides", isPaired);
    if (!isPaired) for (const radio of form.querySelectorAll("[name=laterality]")) radio.checked = false;
  });

  // -- steps

  const go = (step) => {
    for (const section of form.querySelectorAll(".step")) section.hidden = section.dataset.step !== step;
    let isPast = true;
    for (const mark of document.querySelectorAll("[data-mark]")) {
      if (mark.dataset.mark === step) { mark.setAttribute("aria-current", "step"); isPast = false; } else mark.removeAttribute("aria-current");
      mark.classList.toggle("done", isPast);
    }
    for (const line of document.querySelectorAll("[data-who]")) line.textContent = whoLine();
    byId(`${step}-title`).focus();
    window.scrollTo(0, 0);
  };
  const say = (lack) => {
    const old = byId("lack");
    if (old) old.remove();
    if (!lack) return true;
    const [key, field] = lack;
    if (key === "id-missing" || key === "check-failed") complain("patient_id-error", key);
    else if (key) {
      const line = document.createElement("p");
      line.className = "error";
      line.id = "lack";
      line.setAttribute("role", "alert");
      line.textContent = told[camel(key)];
      (field.closest(".field, .check") || field).after(line);
    } else field.click();
    field.focus();
    return false;
  };
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (!button) return;
    if (button.dataset.go === "photo" && !say(missing())) return;
    go(button.dataset.go);
  });

  // -- keeping and sending

  let kept = "";
  const state = (name) => {
    byId("sending-title").textContent = { going: told.sending, refused: told.sendingRefused }[name] || told.sendingKept;
    show("progress", name === "going");
    show("kept-said", name === "kept");
    show("sign-in-said", name === "sign-in");
    show("sign-in-again", name === "sign-in");
    show("refused-said", name === "refused");
    show("correct", name === "refused");
    show("stop", name === "going" || name === "refused");
    for (const id of ["another", "to-list"]) show(id, name === "kept" || name === "sign-in");
  };
  document.addEventListener("luna:uploads", ({ detail }) => {
    if (detail.id !== kept) return;
    if (detail.kind === "going") {
      state("going");
      byId("bar").value = detail.percent;
      byId("progress-said").textContent = told.percentSent.replace("%", detail.percent);
    } else if (detail.kind === "sent") window.location.assign(`/analyses/${detail.analysis}`);
    else if (detail.kind === "waits") state("kept");
    else if (detail.kind === "refused") {
      state("refused");
      byId("refused-title").textContent = detail.reason.title;
      byId("refused-detail").textContent = detail.reason.detail;
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (kept) return;
    if (!say(missing())) return go("who");
    if (!photograph.image) return go("photo");
    show("impression-missing", !value("impression"));
    if (!value("impression")) return form.querySelector("[name=impression]").focus();
    kept = "being kept";
    const said = patient();
    const fields = { patient: said ? JSON.stringify(said) : "" };
    for (const name of ["site", "order", "bodySite", "laterality", "description", "kind", "consent", "impression"]) fields[name] = value(name);
    if (!said) fields.order = "";
    form.hidden = true;
    document.querySelector(".steps").hidden = true;
    show("sending", true);
    state("going");
    byId("sending-title").focus();
    try {
      kept = await luna.queue.keep(form.dataset.owner, fields, await photograph.toSend());
    } catch {  // the phone is full, or keeps nothing in this mode: then nothing was sent either
      kept = "";
      show("sending", false);
      form.hidden = false;
      complain("photo-error", "not-kept");
      return go("photo");
    }
    luna.send();
  });
  document.addEventListener("luna:line", ({ detail }) => {
    if (kept && byId("refused-said").hidden) {
      if (detail === "sign-in") state("sign-in");
      if (detail === "no-line") state("kept");
    }
  });
  byId("stop").addEventListener("click", async () => {
    if (kept) await luna.queue.remove(kept);
    window.location.assign("/analyses");
  });
  byId("correct").addEventListener("click", async () => {
    await luna.queue.remove(kept);
    kept = "";
    show("sending", false);
    form.hidden = false;
    document.querySelector(".steps").hidden = false;
    go("who");
  });
  window.addEventListener("beforeunload", (event) => { if (photograph.image && !kept) event.preventDefault(); });
  byId("cancel").addEventListener("click", () => { photograph.image = null; });

  // The page itself stays on the phone, so that it opens without a line: it holds nothing of a patient.
  if (!form.dataset.kept && "caches" in window)
    fetch("/analyse?kept=yes", { headers: { "X-Unattended": "yes" } }).then(async (answer) => {
      if (answer.ok && !answer.redirected) await (await caches.open("pages")).put("/analyse", answer);
    }).catch(() => {});
})();
