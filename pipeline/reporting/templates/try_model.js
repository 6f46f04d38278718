"use strict";
const form = document.getElementById("ask"), reply = document.getElementById("answer"), line = document.getElementById("line");
const token = document.getElementById("token"), button = form.querySelector("button");

function show(text, isWrong) {
  reply.textContent = text;
  reply.classList.toggle("wrong", Boolean(isWrong));
}

function shortAnswer(answer) {
  const main = answer.prediction ?? answer.answer ?? answer.target ?? answer.continuation;
  if (main === undefined) return "See the answer below.";
  const text = Array.isArray(main) ? main.join(", ") || "none" : main === "" ? "(empty)" : String(main);
  return typeof answer.score === "number" ? `${text} (${(100 * answer.score).toFixed(1)}%)` : text;
}

function finish(answer) {
  show(shortAnswer(answer));
  line.textContent = JSON.stringify(answer, null, 2);
  line.hidden = false;
}

async function follow(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", written = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [kind, data] = event.split("\n"), content = JSON.parse(data.slice("data: ".length));
      if (kind === "event: text") show((written += content.text));
      else if (kind === "event: prediction") finish(content);
      else show(content.error, true);
    }
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const row = {};
  for (const field of form.querySelectorAll("textarea"))
    row[field.name] = field.dataset.words ? field.value.split(/\s+/).filter(Boolean) : field.value;
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token.value}`;
  const streams = form.dataset.streams === "1";
  button.disabled = true;
  line.hidden = true;
  show("…");
  try {
    const response = await fetch(streams ? "predict?stream=1" : "predict", { method: "POST", headers, body: JSON.stringify(row) });
    if (!response.ok) show((await response.json()).error, true);
    else if (streams) await follow(response);
    else finish(await response.json());
  } catch (error) {
    show("The server does not answer.", true);
  }
  button.disabled = false;
});
