// Calls of this gateway: the session, and the admin API below /console/api.

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `the gateway answered ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.field = body.field ?? "";
  }
}

let session = null;
const ended = new Set();

export const current = () => session;
export const mayChange = () => session?.may_change === true;
export const onEnd = (call) => ended.add(call);

export async function resume() {
  const found = await call("GET", "/console/session");
  session = found.signed_in ? found : null;
  if (!session) throw new Problem(401, { title: "not signed in" });
  return session;
}

export async function signIn(token, name) {
  session = await call("POST", "/console/session", { token, name });
  return session;
}

export async function signOut() {
  await call("POST", "/console/session/end", {});
  session = null;
}

export const look = (path, parse) => call("GET", `/console/api${path}`, undefined, parse);
export const change = (path, body = {}) => call("POST", `/console/api${path}`, body);

// A number that JavaScript would write in another way keeps its digits, and is sent as it came.
export const parseJson = (text) => JSON.parse(text, (key, value, context) =>
  (typeof value === "number" && JSON.rawJSON && String(value) !== context.source ? JSON.rawJSON(context.source) : value));

async function call(method, path, body, parse = (text) => JSON.parse(text)) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (session && method !== "GET") headers["X-CSRF-Token"] = session.csrf_token;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Problem(0, { detail: "this gateway does not answer" });
  }
  const answer = await response.text().then(parse).catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401 && session) {
    session = null;
    ended.forEach((tell) => tell());
  }
  throw new Problem(response.status, answer);
}
