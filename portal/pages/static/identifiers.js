// Check digits, looked at while the patient is still there: the node looks again (dicom_node.identity).
"use strict";

self.luna = self.luna || {};

// Chile, RUT: seven or eight digits, modulo 11 with weights 2 to 7 from the right; 10 is written K.
function isRut(text) {
  const found = /^(\d{1,3}(?:\.\d{3}){2}|\d{7,8})-?([\dK])$/.exec(text.toUpperCase());
  if (!found) return false;
  const digits = found[1].replaceAll(".", "").split("").reverse();
  const sum = digits.reduce((total, digit, place) => total + Number(digit) * (2 + place % 6), 0);
  return found[2] === "0123456789K"[(11 - sum % 11) % 11];
}

// Ecuador, cédula: ten digits, the first two a province (30: abroad), modulo 10 with weights 2, 1.
function isCedula(text) {
  const found = /^(\d{9})-?(\d)$/.exec(text);
  const province = found ? Number(found[1].slice(0, 2)) : 0;
  if (!((province >= 1 && province <= 24) || province === 30)) return false;
  const doubled = found[1].split("").map((digit, place) => Number(digit) * (2 - place % 2));
  const sum = doubled.reduce((total, number) => total + (number > 9 ? number - 9 : number), 0);
  return Number(found[2]) === (10 - sum % 10) % 10;
}

// Whether an identifier can be one of its kind; `check` as the site's identifier type says.
luna.identifierFits = (check, text) => {
  const plain = text.normalize("NFKC").replace(/\s/g, "");
  if (check === "rut") return isRut(plain);
  if (check === "cedula-ec") return isCedula(plain);
  return plain.length > 0;
};

// What a scanned code says: Chile's identity card carries an address with RUN=…; others the number itself.
luna.identifierIn = (check, scanned) => {
  const candidates = [];
  const run = /[?&]RUN=([0-9]{1,8}-?[0-9kK])/.exec(scanned);
  if (run) candidates.push(run[1]);
  candidates.push(scanned.trim());
  if (check === "rut") candidates.push(scanned.slice(0, 9).trim());
  if (check === "cedula-ec") candidates.push(...(scanned.match(/\d{10}/g) || []));
  return candidates.find((one) => one.length <= 64 && luna.identifierFits(check, one)) || "";
};
