// Keeps a page current: it is fetched again as the server renders it, and the parts marked data-live are exchanged.

const rendered = new WeakMap(); // each part as the server sent it, before anybody opened a detail in it
for (const part of document.querySelectorAll("[data-live]")) {
  rendered.set(part, part.outerHTML);
  tellTimes(part);
}

let turn = Promise.resolve();

export function refresh() { // whether the page is current then; one after the other, or an older answer may come last
  return turn = turn.then(look, look);
}

async function look() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  const text = answer?.ok && await answer.text().catch(() => null);
  if (!text) return false;
  // Without the player: Chromium never lets go of a document that has one, and a page may be open for days.
  const fresh = new DOMParser().parseFromString(text.replace(/<video.*?<\/video>/s, ""), "text/html");
  document.title = fresh.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other) return location.reload(); // who looks may see it no more
    if (other.outerHTML === rendered.get(part)) continue;
    rendered.set(other, other.outerHTML);
    tellTimes(other);
    const opened = new Set([...part.querySelectorAll("details[open]")].map(nameOf));
    const focused = part.contains(document.activeElement) && stopName(document.activeElement);
    part.replaceWith(other);
    for (const item of other.querySelectorAll("details")) item.open = opened.has(nameOf(item));
    if (focused) [...other.querySelectorAll("a, button, summary")].find(stop => stopName(stop) === focused)?.focus({ preventScroll: true });
  }
  return true;
}

const nameOf = details => details.closest("li")?.querySelector("h3")?.textContent ?? details.textContent;
const stopName = stop => stop.dataset.copy ?? stop.getAttribute("href") ?? nameOf(stop.parentElement); // where the keyboard is

function tellTimes(part) { // in the viewer's zone; to the millisecond, as the server has it, for who points at one
  for (const time of part.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    time.title = time.dateTime;
    time.textContent = "clock" in time.dataset ? moment.toLocaleTimeString("en-GB")
      : moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
  }
}

export function setBar(bar, percent) {
  bar.setAttribute("aria-valuenow", Math.round(percent));
  bar.querySelector("rect").setAttribute("width", percent);
}

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) { count /= 1000; at += 1; }
  return `${at && count < 100 ? count.toPrecision(3) : Math.round(count)} ${units[at]}`;
}

export function span(seconds) {
  if (seconds < 100) return `${seconds} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
