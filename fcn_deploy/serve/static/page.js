// The page that segments a picture: sends it to `predict` as it is, and draws the mask over it.
import { readIndexedPng } from "./png.js";

const find = (id) => document.getElementById(id);
const MOST_SHOWN = 4_000_000; // pixels drawn; larger pictures are drawn smaller, never sent smaller
const STAGES = { decode: "decode", queue: "wait", compute: "compute", encode: "encode" };

let token = ""; // in memory alone
let classes = [];
let mostBytes = Infinity; // of a picture's file
let waiting = null; // what ends the request that is under way
let shown = null; // the mask that is drawn, and the size at which it is
const hidden = new Set(); // classes that were switched off; they stay off for the next picture

const nameOf = (index) => classes[index]?.name ?? `class ${index}`;
const percent = (share) => (share > 0 && share < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);
const say = (text) => { find("status").textContent = text; };

function complain(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

// -- the server ----------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401) find("access").hidden = false;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error ?? `The server answered ${response.status}.`);
}

async function learnClasses() {
  try {
    const model = await (await ask("classes")).json();
    classes = model.classes;
    mostBytes = model.max_body_bytes;
    find("model").textContent = `${model.name}, ${classes.length} classes`;
    find("access").hidden = true;
    complain("");
  } catch (error) {
    if (find("access").hidden) complain(error.message);
    else if (token) complain("The server refuses this token.");
    else say("This server asks for a token.");
  }
}

async function segment(picture, name) {
  waiting?.abort();
  const mine = new AbortController();
  waiting = mine;
  complain("");
  say(`Segmenting ${name} …`);
  document.body.classList.add("busy");
  try {
    if (!classes.length) await learnClasses();
    // Refused while it is sent, it would be a lost connection to the browser, without a reason.
    if (picture.size > mostBytes) throw new Error(`${name} has more than the ${mostBytes} bytes that the server takes.`);
    const send = (path) => ask(path, {
      method: "POST", body: picture, headers: { Accept: "image/png" }, signal: mine.signal,
    });
    const start = performance.now();
    const response = await send("predict");
    const content = await response.arrayBuffer();
    const whole = performance.now() - start;
    const mask = await readIndexedPng(content);
    const drawn = await asDecodedByTheServer(picture, mask, send);
    if (waiting !== mine) return;
    show(drawn, mask, name);
    showTimes(response.headers.get("Server-Timing") ?? "", whole);
    offer(content, name);
  } catch (error) {
    if (error.name === "AbortError" || waiting !== mine) return;
    say("");
    complain(error.message);
  } finally {
    if (waiting === mine) {
      waiting = null;
      document.body.classList.remove("busy");
    }
  }
}

// What the network saw.  The browser's own decoding serves where it is the same; it is not for
// formats that browsers lack (TIFF), nor surely where EXIF turns what is no JPEG.  Then the server
// draws it: an overlay whose mask has no opacity.
async function asDecodedByTheServer(picture, mask, send) {
  const content = new Uint8Array(await picture.arrayBuffer());
  const isJpeg = content[0] === 0xff && content[1] === 0xd8;
  if (isJpeg || !/eXIf|EXIF/.test(new TextDecoder("latin1").decode(content))) {
    const own = await createImageBitmap(picture).catch(() => null);
    if (own?.width === mask.width && own.height === mask.height) return own;
  }
  return createImageBitmap(await (await send("predict?overlay=0")).blob());
}

// -- the result ----------------------------------------------------------------------------------

function show(picture, mask, name) {
  const scale = Math.min(1, Math.sqrt(MOST_SHOWN / (mask.width * mask.height)));
  const width = Math.max(1, Math.round(mask.width * scale));
  const height = Math.max(1, Math.round(mask.height * scale));
  shown = { mask, width, height };
  for (const id of ["picture", "mask"]) Object.assign(find(id), { width, height });
  find("picture").getContext("2d").drawImage(picture, 0, 0, width, height);
  // As large as the column or the window allows, in the picture's proportions.
  find("stage").style.aspectRatio = `${width} / ${height}`;
  find("stage").style.maxWidth = `calc(75vh * ${width / height})`;
  find("under").textContent = `${name}, ${mask.width} × ${mask.height}`;
  find("result").hidden = false;
  document.body.classList.remove("empty");
  paint();
  listClasses(name);
}

function paint() {
  const { mask, width, height } = shown;
  const bytes = new Uint8Array(4 * 256); // as bytes, whatever the machine's order of them
  for (let index = 0; index < 256; index += 1) {
    bytes.set(mask.palette.subarray(3 * index, 3 * index + 3), 4 * index);
    bytes[4 * index + 3] = hidden.has(index) ? 0 : 255;
  }
  const colours = new Uint32Array(bytes.buffer);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor((x * mask.width) / width));
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor((y * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x += 1) pixels[y * width + x] = colours[mask.indices[row + columns[x]]];
  }
  find("mask").getContext("2d").putImageData(image, 0, 0);
}

function listClasses(name) {
  const { indices, palette } = shown.mask;
  const counts = new Array(256).fill(0);
  for (const index of indices) counts[index] += 1;
  const present = [...counts.keys()].filter((index) => counts[index]);
  present.sort((one, other) => counts[other] - counts[one]);
  find("classes").replaceChildren(...present.map((index) => {
    const row = find("class-row").content.cloneNode(true);
    const share = counts[index] / indices.length;
    const box = row.querySelector("input");
    box.checked = !hidden.has(index);
    box.dataset.index = String(index);
    row.querySelector(".chip").style.backgroundColor = `rgb(${palette.subarray(3 * index, 3 * index + 3).join()})`;
    row.querySelector(".name").textContent = nameOf(index);
    row.querySelector(".figure").textContent = percent(share);
    row.querySelector(".track > span").style.width = `${100 * share}%`;
    return row;
  }));
  const absent = classes.filter((_, index) => !counts[index]).map((one) => one.name);
  find("absent").textContent = `Not in the picture: ${absent.join(", ")}.`;
  find("absent").hidden = !absent.length;
  const shares = present.map((index) => `${nameOf(index)} ${percent(counts[index] / indices.length)}`);
  find("stage").setAttribute("aria-label", `${name} with its mask: ${shares.join(", ")}`);
  say(`${name} is segmented: ${shares.slice(0, 3).join(", ")}${shares.length > 3 ? " …" : ""}`);
}

function showTimes(header, whole) {
  const times = [];
  for (const [, stage, dur] of header.matchAll(/(\w+);dur=([\d.]+)/g)) {
    if (stage in STAGES) times.push([STAGES[stage], Number(dur)]);
  }
  const inside = times.reduce((sum, [, milliseconds]) => sum + milliseconds, 0);
  times.push(["network and the rest", Math.max(0, whole - inside)]);
  find("times").replaceChildren(...[...times, ["in all", whole]].map(([stage, milliseconds]) => {
    const row = find("time-row").content.cloneNode(true);
    row.querySelector("th").textContent = stage;
    row.querySelector(".figure").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms`;
    row.querySelector(".track > span").style.width = `${(100 * milliseconds) / whole}%`;
    return row;
  }));
}

function offer(content, name) {
  const link = find("download");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([content], { type: "image/png" }));
  link.download = `${name.replace(/\.[^.]*$/, "")}.png`;
}

function switchClasses(boxes, on) {
  for (const box of boxes) {
    box.checked = on;
    if (on) hidden.delete(Number(box.dataset.index));
    else hidden.add(Number(box.dataset.index));
  }
  if (shown) paint();
}

const boxes = () => find("classes").querySelectorAll("input");
find("classes").addEventListener("change", ({ target }) => switchClasses([target], target.checked));
find("all").addEventListener("click", () => switchClasses(boxes(), true));
find("none").addEventListener("click", () => switchClasses(boxes(), false));

function setOpacity() {
  const { value } = find("opacity");
  find("mask").style.opacity = String(value / 100);
  find("opacity-value").textContent = `${value}\u00a0%`;
}
find("opacity").addEventListener("input", setOpacity);
setOpacity(); // browsers keep a slider's place when a page is loaded again

find("stage").addEventListener("pointermove", (event) => {
  const { mask } = shown;
  const box = find("stage").getBoundingClientRect();
  const place = (at, size, most) => Math.min(most - 1, Math.max(0, Math.floor((at / size) * most)));
  const x = place(event.clientX - box.left, box.width, mask.width);
  const y = place(event.clientY - box.top, box.height, mask.height);
  find("under").textContent = `${nameOf(mask.indices[y * mask.width + x])} at ${x}, ${y}`;
});

// -- where pictures come from --------------------------------------------------------------------

function take(files, otherwise) {
  if (files.length) segment(files[0], files[0].name || "the picture");
  else complain(otherwise);
}

find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", ({ target }) => {
  if (target.files.length) take(target.files);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => {
  if (event.target === find("token")) return;
  take(event.clipboardData.files, "The clipboard holds no picture.");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files, "That is no file: save the picture first, then drop its file.");
});

function closeCamera() {
  for (const track of find("video").srcObject?.getTracks() ?? []) track.stop();
  find("video").srcObject = null;
  find("viewfinder").hidden = true;
  find("take").disabled = true;
  find("camera").hidden = false;
  find("camera").focus();
}
find("camera").hidden = !navigator.mediaDevices?.getUserMedia; // browsers give it to HTTPS and localhost alone
find("camera").addEventListener("click", async () => {
  try {
    find("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    complain(`The camera cannot be used: ${error.message}.`);
    return;
  }
  complain("");
  find("viewfinder").hidden = false;
  find("camera").hidden = true;
  find("close").focus();
});
find("video").addEventListener("loadeddata", () => { // the first frame has come
  find("take").disabled = false;
  find("take").focus();
});
find("close").addEventListener("click", closeCamera);
find("take").addEventListener("click", () => {
  const video = find("video");
  const frame = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  frame.getContext("2d").drawImage(video, 0, 0);
  frame.convertToBlob({ type: "image/png" }).then((blob) => segment(blob, "frame.png"));
});

find("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  learnClasses().then(() => { if (classes.length) { say("The token is accepted."); find("choose").focus(); } });
});
learnClasses();
