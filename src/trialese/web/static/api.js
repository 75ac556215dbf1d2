// The server, asked. A failure is an Error whose message is the server's one line.

import { $ } from "./dom.js";

let token = sessionStorage.getItem("token") || "";
let asking = null;

/** The decoded answer; `body`: an object sent as JSON, or a FormData. */
export async function ask(path, { query, body, method, raw = false } = {}) {
  const url = new URL(path, location.origin);
  for (const [key, value] of Object.entries(query || {})) {
    if (value !== null && value !== undefined) url.searchParams.set(key, value);
  }
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  const isForm = body instanceof FormData;
  if (body && !isForm) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, {
      method: method || (body ? "POST" : "GET"),
      headers,
      body: !body || isForm ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (answer.status === 401) {
    await newToken();
    return ask(path, { query, body, method, raw });
  }
  if (raw && answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(told.message || `The server answered ${answer.status}.`);
    error.status = answer.status;
    throw error;
  }
  return told;
}

/** Let the browser save what the server answers. */
export async function download(path, name, query) {
  const answer = await ask(path, { raw: true, query });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return answer.headers;
}

function newToken() {
  asking ??= new Promise((resolve) => {
    const dialog = $("token-dialog");
    dialog.addEventListener("close", () => {
      token = $("token").value.trim();
      sessionStorage.setItem("token", token);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
