// One video: plays it as soon as there is something to play, follows its progress, copies links.

import { announce, refresh, setBar, span } from "./live.js";

const player = document.getElementById("player");
const source = () => document.getElementById("source").dataset;
let playing = null; // the revision in the player
let hls = null;
let lost = 0, broken = 0; // how often in a row nothing could be loaded; how often what was could not be played
const PAUSE = 2000; // milliseconds before something is tried again

function play() {
  const { play: address, revision } = source();
  if (!address) return stop();
  if (playing === revision) return;
  if (playing !== null) {
    document.getElementById("newer").hidden = false;
    announce("A new revision is there");
    return;
  }
  start(address, revision);
}

function stop() { // it was withdrawn
  if (playing === null) return;
  playing = null;
  hls?.destroy();
  player.removeAttribute("src");
  player.hidden = true;
  document.getElementById("newer").hidden = true;
  document.getElementById("waiting").hidden = false;
  document.getElementById("waiting").textContent = "Nothing to play";
}

function start(address, revision, at = -1) {
  playing = revision;
  document.getElementById("newer").hidden = true;
  document.getElementById("waiting").hidden = true;
  document.getElementById("trouble").hidden = true;
  document.getElementById("stage").classList.remove("nothing");
  player.hidden = false;
  hls?.destroy();
  hls = null;
  lost = broken = 0;
  // Media Source first: Chrome's own HLS is not reliable yet.
  if (window.Hls?.isSupported()) {
    // Seconds; without a limit it reads ten minutes ahead for a viewer who may leave. Nothing here is live: of parts that
    // were left in a finished playlist the player would load the first again and again.
    hls = new window.Hls({ enableWorker: true, lowLatencyMode: false, backBufferLength: 30, maxMaxBufferLength: 45, capLevelToPlayerSize: true,
      startPosition: at, xhrSetup: (request, name) => request.open("GET", ofRevision(name, revision)) });
    hls.on(window.Hls.Events.ERROR, (_, problem) => {
      // It would wait for ever at a gap that the video begins with.
      if (problem.details === "fragGap" && !player.buffered.length) hls.startLoad(problem.frag.end);
      if (problem.fatal || locked(problem)) recover(problem, address);
    });
    hls.on(window.Hls.Events.FRAG_LOADED, () => { lost = 0; });
    hls.loadSource(address);
    hls.attachMedia(player);
  } else if (player.canPlayType("application/vnd.apple.mpegurl")) {
    player.src = address;
  } else {
    trouble("This browser cannot play HLS.");
  }
}

// The next revision has other files under the same names.
function ofRevision(name, revision) {
  const url = new URL(name, location);
  if (url.origin === location.origin) url.searchParams.set("revision", revision);
  return url.href;
}

// A key of a DRM system, which it does not even ask for; where a file is away, there are details of the network.
const locked = ({ type, details, networkDetails }) =>
  type === window.Hls.ErrorTypes.KEY_SYSTEM_ERROR || (details === "keyLoadError" && !networkDetails);

function recover(problem, address) {
  if (locked(problem)) return trouble("It is encrypted, and this page has no keys.");
  if (problem.details.includes("Codec")) return trouble("This browser cannot decode it.");
  const { play: other, revision } = source();
  if (revision !== playing && problem.response?.code === 404) { // overtaken before it was published, and gone
    const { paused, currentTime } = player;
    start(other, revision, currentTime);
    return paused || player.play().catch(() => {});
  }
  const media = problem.type === window.Hls.ErrorTypes.MEDIA_ERROR;
  if ((media ? ++broken : ++lost) > 5) return trouble(`It does not play here: ${problem.details}`);
  if (media) return hls.recoverMediaError();
  const mine = hls;
  setTimeout(() => {
    if (hls !== mine) return;
    if (hls.levels.length) hls.startLoad();
    else hls.loadSource(address); // not even the first playlist was there
  }, PAUSE * lost);
}

function trouble(text) {
  const place = document.getElementById("trouble");
  place.textContent = text;
  place.hidden = false;
}

document.getElementById("reload").addEventListener("click", () => {
  const { play: address, revision } = source();
  start(address, revision);
  player.play().catch(() => {});
});

document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch { // it may not, or the page is of another machine and came without TLS
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    done = "Selected";
  }
  button.textContent = done;
  announce(done);
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

const ENDED = ["rejected", "superseded", "unchanged", "withdrawn"]; // how far it came says nothing any more

function left(seconds) {
  if (seconds === null) return "";
  return seconds ? `about ${span(Math.ceil(seconds))} left` : "later than estimated";
}

const stateName = () => document.getElementById("state").textContent.trim();
let shown = null;

let events = null;

// Browsers open six connections to a site, over all tabs: who does not look and does not listen needs none.
function follow() {
  events?.close();
  if (document.hidden && player.paused) return;
  const mine = events = new EventSource(`/v1/videos/${encodeURIComponent(source().video)}/events`);
  mine.addEventListener("status", event => told(JSON.parse(event.data)));
  // A connection that is lost comes back by itself, but not one that is refused: by a proxy while the gateway starts, or
  // to who has signed out.
  mine.addEventListener("error", () => {
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => { if (events === mine) refresh().then(follow); }, PAUSE);
  });
}

async function told(status) {
  document.getElementById("progress").hidden = ENDED.includes(status.state);
  setBar(document.querySelector("#progress .bar"), status.percent);
  document.getElementById("percent").textContent = `${status.percent} %`;
  document.getElementById("eta").textContent = left(status.eta_seconds);
  const now = `${status.upload_id} ${status.state} ${status.version} ${status.attempts}`;
  if (now === shown) return;
  shown = now;
  const before = stateName();
  while (!await refresh()) await new Promise(done => setTimeout(done, PAUSE));
  if (stateName() !== before) announce(stateName());
  play();
}

document.addEventListener("visibilitychange", follow);
follow();
play();
