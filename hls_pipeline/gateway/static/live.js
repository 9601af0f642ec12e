// Keeps a page current: it is fetched again as the server renders it, and the parts marked data-live are exchanged.

const rendered = new WeakMap(); // each part as the server sent it, before anybody opened a detail in it
for (const part of document.querySelectorAll("[data-live]")) rendered.set(part, part.outerHTML);

export async function refresh() { // whether the page is current then
  const answer = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  if (!answer?.ok) return false;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = fresh.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.outerHTML === rendered.get(part)) continue;
    rendered.set(other, other.outerHTML);
    const opened = new Set([...part.querySelectorAll("details[open]")].map(nameOf));
    part.replaceWith(other);
    for (const item of other.querySelectorAll("details")) item.open = opened.has(nameOf(item));
  }
  return true;
}

const nameOf = details => details.closest("li")?.querySelector("h3")?.textContent ?? details.textContent;

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
