// What is wrong with a field, and which file was chosen, in the page's language: a browser says it in its own.
"use strict";

(() => {
  const words = document.body.dataset;
  const wrong = ({ validity, type, minLength }) => {
    if (validity.valueMissing) return ["radio", "checkbox", "select-one", "file"].includes(type) ? words.fieldChoose : words.fieldMissing;
    if (validity.tooShort) return words.fieldShort.replace("%", minLength);
    if (validity.typeMismatch && type === "email") return words.fieldEmail;
    return words.fieldUnclear;
  };
  const forgive = (fields) => { for (const one of fields) if (one.setCustomValidity) one.setCustomValidity(""); };

  // Said anew at every try to send: what is wrong may be another thing by then, or nothing.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button, [type=submit]");
    if (button && button.form) forgive(button.form.elements);
  }, true);
  document.addEventListener("input", (event) => forgive([event.target]));
  document.addEventListener("invalid", (event) => {
    forgive([event.target]);
    event.target.setCustomValidity(wrong(event.target));
  }, true);

  // <input type="file" data-names="id">: the name of what was chosen goes into that element.
  document.addEventListener("change", ({ target }) => {
    if (target.dataset.names && target.files.length) document.getElementById(target.dataset.names).textContent = target.files[0].name;
  });
})();
