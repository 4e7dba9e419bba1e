// Asking the server. Arrays come as base64 of their bits and leave here as typed arrays with a `shape`.

export class Refused extends Error {}

const KINDS = { f4: Float32Array, u4: Uint32Array, i4: Int32Array, u1: Uint8Array };

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.data === "string" && value.type in KINDS) {
    const bytes = Uint8Array.from(atob(value.data), (letter) => letter.charCodeAt(0));
    const array = new KINDS[value.type](bytes.buffer);
    array.shape = value.shape;
    return array;
  }
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpack(part)]));
}

const listeners = new Set();
export const onLost = (listener) => listeners.add(listener);

async function post(address, body) {
  let response;
  try {
    response = await fetch(address, { method: "POST", body });
    if (response.status === 404) throw new TypeError("a newer server, which has another address");
  } catch (error) {
    listeners.forEach((listener) => listener(true));
    throw error;
  }
  listeners.forEach((listener) => listener(false));
  const answer = await response.json();
  if (answer.refused !== undefined && answer.rows === undefined) throw new Refused(answer.refused);
  if (!response.ok) throw new Error(answer.error);
  return unpack(answer);
}

export const ask = (name, body = {}) => post(`api/${name}`, JSON.stringify(body));
export const upload = (file, side, channels) => post(`api/upload/${side}/${channels}`, file);

// Calls `answer` with what the newest question gives. While one is under way, only the last of those that follow waits.
export function latest(name, answer, refuse) {
  let busy = false;
  let waiting = null;
  return async function question(body) {
    if (busy) {
      waiting = body;
      return;
    }
    busy = true;
    try {
      answer(await ask(name, body), body);
    } catch (error) {
      if (error instanceof Refused) refuse(error.message, body);
      else if (!(error instanceof TypeError)) throw error;
    } finally {
      busy = false;
      if (waiting !== null) {
        const next = waiting;
        waiting = null;
        question(next);
      }
    }
  };
}

export function base64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192)
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}
