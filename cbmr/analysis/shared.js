"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Text as it is searched: whatever its case and accents.
const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

const nameOf = (track) =>
  data.artist[track] ? `${data.artist[track]} – ${data.title[track]}` : data.title[track];

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function readable(url) {
  try {
    return decodeURIComponent(url);
  } catch { // a name that is no UTF-8
    return url;
  }
}

// One player for all tracks, made on the first click: thousands would stall a browser.
let audio = null;
function play(track, atSeconds) {
  if (!audio) {
    audio = make("audio", { controls: true, preload: "auto" });
    byId("player").append(audio);
    audio.addEventListener("error", () => {
      byId("said").textContent =
        `${audio.dataset.name}: this browser cannot play ${readable(audio.dataset.url)}`;
    });
    audio.addEventListener("loadedmetadata", () => {
      if (audio.dataset.at === "middle" && Number.isFinite(audio.duration)) {
        audio.currentTime = audio.duration / 2;
      }
    });
  }
  const url = data.url[track];
  const known = atSeconds !== null;
  Object.assign(audio.dataset, { name: nameOf(track), url, at: known ? "known" : "middle" });
  audio.src = known ? `${url}#t=${atSeconds.toFixed(2)}` : url;
  byId("said").textContent =
    `${nameOf(track)}, from ${known ? clock(atSeconds) : "the middle"} on`;
  audio.play().catch(() => {}); // what went wrong is told by the error event
}
