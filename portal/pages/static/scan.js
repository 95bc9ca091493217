// Reads an identity card or a wristband with the camera, where the browser can (Barcode Detection API).
"use strict";

self.luna = self.luna || {};

luna.canScan = async () => "BarcodeDetector" in window && Boolean(navigator.mediaDevices)
  && (await BarcodeDetector.getSupportedFormats().catch(() => [])).length > 0;

// Opens the dialog and resolves with the first code for which `accept` gives something, or "" when it is closed.
luna.scan = async (dialog, accept) => {
  const video = dialog.querySelector("video"), trouble = dialog.querySelector(".error");
  trouble.hidden = true;
  dialog.showModal();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch {
    trouble.hidden = false;
    return "";
  }
  video.srcObject = stream;
  try {
    await video.play();
    const detector = new BarcodeDetector();
    while (dialog.open) {
      for (const code of await detector.detect(video).catch(() => [])) {
        const found = accept(code.rawValue);
        if (found) return found;
      }
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    return "";
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    if (dialog.open) dialog.close();
  }
};
