// The list of videos: takes packages by drag and drop or by choice, sends them, shows what the server answers.

import { announce, bytes, refresh, setBar } from "./live.js";

const LOOK_SECONDS = 2;
const drop = document.getElementById("drop");
const part = name => drop.querySelector(`.drop-${name}`);

async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, LOOK_SECONDS * 1000);
}
setTimeout(watch, LOOK_SECONDS * 1000);

if (drop) {
  const folder = document.getElementById("folder"), archive = document.getElementById("archive");
  document.getElementById("choose-folder").addEventListener("click", () => folder.click());
  document.getElementById("choose-archive").addEventListener("click", () => archive.click());
  folder.addEventListener("change", () => sendFiles([...folder.files].map(file => ({ file, path: file.webkitRelativePath }))));
  archive.addEventListener("change", () => sendFiles([...archive.files].map(file => ({ file, path: file.name }))));

  let depth = 0;
  window.addEventListener("dragover", event => event.preventDefault());
  window.addEventListener("dragenter", event => { event.preventDefault(); depth += 1; drop.classList.add("over"); });
  window.addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) drop.classList.remove("over"); });
  window.addEventListener("drop", async event => {
    event.preventDefault();
    depth = 0;
    drop.classList.remove("over");
    // Entries are only there until the first await.
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? await collect(entries) : [...event.dataTransfer.files].map(file => ({ file, path: file.name }));
    sendFiles(files);
  });
}

async function collect(entries) {
  const found = [];
  for (const entry of entries) {
    if (entry.isFile) {
      found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), path: entry.fullPath.replace(/^\//, "") });
    } else {
      const reader = entry.createReader();
      for (;;) { // a reader gives a hundred entries at a time
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) break;
        found.push(...await collect(some));
      }
    }
  }
  return found;
}

const isArchive = path => /\.(zip|tar|tgz|tar\.gz)$/i.test(path);
const isJunk = path => /(^|\/)(\.[^/]*|Thumbs\.db|desktop\.ini)$|^__MACOSX\//.test(path);

function sendFiles(files) {
  if (part("idle").hidden) return announce("Something is being sent already"); // a second drop
  files = files.filter(item => !isJunk(item.path));
  if (!files.length) return show("That was empty", "Choose a folder with playlists and segments, or one archive.");
  const form = new FormData();
  const id = document.getElementById("video-id");
  if (id.value) {
    if (!id.reportValidity()) return;
    form.append("video_id", id.value);
  }
  if (files.length === 1 && isArchive(files[0].path)) {
    form.append("package", files[0].file);
  } else {
    const top = commonFolder(files.map(item => item.path));
    for (const { file, path } of files) form.append("files", file, path.slice(top.length));
  }
  send(form, files.reduce((sum, item) => sum + item.file.size, 0), files.length);
}

function commonFolder(paths) {
  const first = paths[0].split("/")[0] + "/";
  return paths.every(path => path.startsWith(first)) ? first : "";
}

function send(form, total, count) {
  const request = new XMLHttpRequest();
  const bar = part("busy").querySelector(".bar");
  const sending = document.getElementById("sending"), sent = document.getElementById("sent");
  mode("busy");
  setBar(bar, 0);
  sending.textContent = "Sending";
  sent.textContent = `${count} file${count === 1 ? "" : "s"}, ${bytes(total)}`;
  announce(`Sending ${bytes(total)}`);
  request.upload.addEventListener("progress", event => {
    if (!event.lengthComputable) return;
    setBar(bar, 100 * event.loaded / event.total);
    sent.textContent = `${bytes(event.loaded)} of ${bytes(event.total)}`;
  });
  request.upload.addEventListener("load", () => { sending.textContent = "Checking"; announce("Checking"); });
  request.addEventListener("load", () => { mode("idle"); answered(request); });
  request.addEventListener("error", () => { mode("idle"); show("The upload broke off", "Check the connection and send it again."); });
  request.addEventListener("abort", () => { mode("idle"); announce("Cancelled"); document.getElementById("choose-folder").focus(); });
  document.getElementById("cancel").onclick = () => request.abort();
  request.open("POST", "/v1/videos");
  request.responseType = "json";
  request.send(form);
}

function answered(request) {
  const content = request.response ?? {};
  if (request.status < 300 && content.video_id) {
    location.href = `/videos/${encodeURIComponent(content.video_id)}`;
  } else if (content.report) {
    const errors = content.report.errors;
    show(`Refused: ${errors.length} fault${errors.length === 1 ? "" : "s"}`, "Nothing was published. Correct this and send the package again.", errors);
  } else {
    show("It was not taken", content.detail ?? `The server answered ${request.status}.`);
  }
}

function mode(name) {
  part("idle").hidden = name !== "idle";
  part("busy").hidden = name !== "busy";
  if (name === "busy") part("result").hidden = true;
  for (const input of drop.querySelectorAll("input[type=file]")) input.value = "";
}

// Everything below is a stranger's text: it only ever becomes textContent.
function show(title, text, findings = []) {
  const result = part("result");
  result.replaceChildren(make("h3", "", title), make("p", "muted", text));
  if (findings.length) {
    const list = make("ul", "findings");
    for (const finding of findings) {
      const item = make("li"), where = make("p", "where");
      where.append(make("code", "", (finding.path || "package") + (finding.line ? `:${finding.line}` : "")), make("span", "rule", finding.code));
      item.append(where, make("p", "", finding.message));
      if (finding.advice) item.append(make("p", "advice", finding.advice));
      list.append(item);
    }
    result.append(list);
  }
  result.hidden = false;
  result.focus();
  announce(title);
}

function make(tag, kind = "", text = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}
