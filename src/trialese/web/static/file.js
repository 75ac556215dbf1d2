// A file dropped or chosen: uploaded as a job, watched, its labels downloaded.

import { ask, download } from "./api.js";
import { $, el, number, say } from "./dom.js";

let state = null;

export function startFile(state_, showPredict) {
  state = state_;
  $("file").addEventListener("change", () => $("file").files.length && send($("file").files[0]));
  let depth = 0;
  const holdsFile = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragenter", (event) => holdsFile(event) && document.body.classList.toggle("dragging", ++depth > 0));
  addEventListener("dragleave", (event) => holdsFile(event) && document.body.classList.toggle("dragging", --depth > 0));
  addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("dragging");
    showPredict();
    send(event.dataTransfer.files[0]);
  });
}

async function send(file) {
  const box = el("div.job");
  $("job").replaceChildren(box);
  try {
    box.replaceChildren(`Sending ${file.name} …`);
    const form = new FormData();
    form.append("model", state.model.model);
    form.append("prefer", state.prefer);
    form.append("column", $("column").value.trim());
    form.append("file", file);
    await watch(box, file.name, (await ask("/v1/jobs", { body: form })).id);
  } catch (error) {
    box.replaceChildren(el("div.error", { role: "alert" }, `${file.name}: ${error.message}`));
  }
  $("file").value = "";
}

async function watch(box, name, id) {
  for (;;) {
    const job = await ask(`/v1/jobs/${id}`);
    if (job.state === "failed") throw new Error(job.message || "the job failed");
    if (job.state === "done") {
      const left = Object.values(job.left_out).reduce((sum, count) => sum + count, 0);
      const told = `${number(job.texts)} ${job.texts === 1 ? "text" : "texts"} labelled${left ? `, ${number(left)} records without one left out` : ""}${job.prefer ? `, with cut-offs for ${job.prefer}` : ""}.`;
      const result = `${name.replace(/\.[^.]+$/, "")}-labels.${job.format}`;
      box.replaceChildren(el("p", {}, `${name}: ${told}`),
        el("button.main", { type: "button", onclick: () => download(`/v1/jobs/${id}/result`, result) }, "Download the labels"));
      say(`${name}: ${told}`);
      return;
    }
    box.replaceChildren(el("p", {}, job.records ? `${name}: ${number(job.records)} records so far` : `${name}: waiting …`), el("progress"));
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}
