// Check digits, looked at while the patient is still there: the node looks again (dicom_node.identity).
"use strict";

self.luna = self.luna || {};

// Chile, RUT: modulo 11 with weights 2 to 7 from the right; 10 is written K.
function isRut(text) {
  const plain = text.replace(/[.\s-]/g, "").toUpperCase();
  if (!/^\d{1,8}[\dK]$/.test(plain)) return false;
  let sum = 0, weight = 2;
  for (const digit of plain.slice(0, -1).split("").reverse()) {
    sum += Number(digit) * weight;
    weight = weight === 7 ? 2 : weight + 1;
  }
  const rest = 11 - (sum % 11);
  return plain.slice(-1) === (rest === 11 ? "0" : rest === 10 ? "K" : String(rest));
}

// Ecuador, cédula: ten digits, province 01 to 24 or 30, third digit below 6, modulo 10 with weights 2, 1.
function isCedula(text) {
  const plain = text.replace(/[\s-]/g, "");
  if (!/^\d{10}$/.test(plain)) return false;
  const province = Number(plain.slice(0, 2));
  if (!((province >= 1 && province <= 24) || province === 30) || Number(plain[2]) > 5) return false;
  let sum = 0;
  for (let place = 0; place < 9; place++) {
    const product = Number(plain[place]) * (place % 2 ? 1 : 2);
    sum += product > 9 ? product - 9 : product;
  }
  return Number(plain[9]) === (10 - (sum % 10)) % 10;
}

// Whether an identifier can be one of its kind; `check` as the site's identifier type says.
luna.identifierFits = (check, text) => {
  if (check === "rut") return isRut(text);
  if (check === "cedula-ec") return isCedula(text);
  return text.trim().length > 0;
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
