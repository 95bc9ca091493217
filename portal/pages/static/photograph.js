// One photograph on its way: chosen, looked at under a guide, framed closer where wanted.  What was not framed is sent
// as it came from the camera, byte by byte; what was framed is cut at full resolution.
"use strict";

self.luna = self.luna || {};

luna.Photograph = class {
  constructor(canvas, slider, onChange) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.slider = slider;
    this.onChange = onChange;
    this.file = null;
    this.image = null;
    slider.addEventListener("input", () => this.draw(true));
    canvas.addEventListener("keydown", (event) => this.byKey(event));
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { this.held = null; });
    canvas.addEventListener("wheel", (event) => {
      if (!this.image) return;
      event.preventDefault();
      this.slider.value = Number(this.slider.value) - Math.sign(event.deltaY) * 4;
      this.draw(true);
    }, { passive: false });
  }

  // Throws "heic", "large" or "unreadable".
  async take(file, maxBytes) {
    const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
    const brand = String.fromCharCode(...head.slice(4, 12));
    if (/^ftyp(hei|hev|mif|msf)/.test(brand)) throw new Error("heic");
    if (file.size > maxBytes) throw new Error("large");
    let image;
    try { image = await createImageBitmap(file, { imageOrientation: "from-image" }); } catch { throw new Error("unreadable"); }
    if (this.image) this.image.close();
    this.file = file;
    this.image = image;
    this.slider.value = 0;
    this.centre = [image.width / 2, image.height / 2];
    this.draw(true);
  }

  get isFramed() { return Number(this.slider.value) > 0; }

  // Side of the square that is seen, in pixels of the photograph: all of it at first, a fifth of the shorter side at most zoom.
  get side() {
    const whole = Math.max(this.image.width, this.image.height), closest = Math.min(this.image.width, this.image.height) / 5;
    return whole * Math.pow(closest / whole, Number(this.slider.value) / 100);
  }

  draw(changed) {
    if (!this.image) return;
    const { width, height } = this.image, side = this.side;
    const keep = (middle, length) => side >= length ? length / 2 : Math.min(length - side / 2, Math.max(side / 2, middle));
    this.centre = [keep(this.centre[0], width), keep(this.centre[1], height)];
    this.pen.fillStyle = "#000";
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const scale = this.canvas.width / side;
    this.pen.drawImage(this.image, (side / 2 - this.centre[0]) * scale, (side / 2 - this.centre[1]) * scale, width * scale, height * scale);
    if (changed) this.onChange();
  }

  byKey(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const zoom = { "+": 4, "=": 4, "-": -4 }[event.key];
    if (!this.image || (!move && !zoom)) return;
    event.preventDefault();
    if (zoom) this.slider.value = Number(this.slider.value) + zoom;
    else this.centre = this.centre.map((one, axis) => one + move[axis] * this.side / 16);
    this.draw(true);
  }

  grab(event) {
    if (!this.image || !this.isFramed) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.held = [event.clientX, event.clientY];
  }

  drag(event) {
    if (!this.held) return;
    const scale = this.side / this.canvas.clientWidth;
    this.centre = [this.centre[0] - (event.clientX - this.held[0]) * scale, this.centre[1] - (event.clientY - this.held[1]) * scale];
    this.held = [event.clientX, event.clientY];
    this.draw(true);
  }

  // The part that is sent, in pixels of the photograph.
  get part() {
    const { width, height } = this.image, side = this.side;
    const across = Math.min(side, width), down = Math.min(side, height);
    return [this.centre[0] - across / 2, this.centre[1] - down / 2, across, down].map(Math.round);
  }

  // 256 x 256 pixels of what is sent, as the node's gate looks at it.
  small() {
    const [left, top, across, down] = this.isFramed ? this.part : [0, 0, this.image.width, this.image.height];
    const small = new OffscreenCanvas(256, 256).getContext("2d");
    small.imageSmoothingQuality = "high";
    small.drawImage(this.image, left, top, across, down, 0, 0, 256, 256);
    return { pixels: small.getImageData(0, 0, 256, 256), shorterSide: Math.min(across, down) };
  }

  async toSend() {
    if (!this.isFramed) return this.file;
    const [left, top, across, down] = this.part;
    const cut = new OffscreenCanvas(across, down);
    cut.getContext("2d").drawImage(this.image, left, top, across, down, 0, 0, across, down);
    return cut.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  }
};
