// Keeps the player itself: its page, its scripts and its fonts, so that a screen starts without a network. The first line,
// which the service writes, says of which mode it is and what belongs together. Documents and pictures are not its
// business: the page verifies and keeps them.

const CACHE = `signage-shell-${MODE}-${SHELL[0].split("/").at(-2)}`;
const PATIENCE_MS = 4_000;

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(CACHE);
      await cache.addAll(SHELL);
      // The page that brought this worker came before it and has not passed through it.
      const pages = await clients.matchAll({ includeUncontrolled: true, type: "window" });
      await Promise.all(pages.map((page) => new URL(page.url).pathname).filter(isPage).map((path) => cache.add(path)));
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      const old = (await caches.keys()).filter((name) => name.startsWith(`signage-shell-${MODE}-`) && name !== CACHE);
      await Promise.all(old.map((name) => caches.delete(name)));
      await clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (request.mode === "navigate" && isPage(url.pathname)) event.respondWith(page(request, url.pathname));
  else if (/^\/signage\/(player|fonts)\//.test(url.pathname)) event.respondWith(piece(request));
});

/** /signage, /signage/S01 and the same of drills; nothing with an ending, and nothing of the desk. */
function isPage(path) {
  const base = MODE === "drill" ? "/drill/signage" : "/signage";
  return path === base || (path.startsWith(`${base}/`) && /^[A-Za-z0-9_-]+$/.test(path.slice(base.length + 1)));
}

/** From the service if it answers soon and with a page; else as it was last time. */
async function page(request, path) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(path);
  try {
    const answer = await fetch(request, kept ? { signal: AbortSignal.timeout(PATIENCE_MS) } : {});
    if (answer.status === 200) await cache.put(path, answer.clone());
    return answer.status < 500 || !kept ? answer : kept;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}

/** Named by its content, so what is kept is right for ever. */
async function piece(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request.url);
  if (kept) return kept;
  const answer = await fetch(request);
  if (answer.status === 200) await cache.put(request.url, answer.clone());
  return answer;
}
