// What trunk leaves to do after a build, as its post_build hook: a program that loads its parts when they are wanted,
// smaller WebAssembly, a start that a strict Content-Security-Policy allows, and the service worker that makes the page
// work offline.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, relative } from "node:path";

const folder = process.env.TRUNK_STAGING_DIR ?? process.argv[2];
if (!folder) throw new Error("finish-page: give the folder of the page, or run it as trunk's post_build hook");
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "hydra");
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

const files = (under) =>
  readdirSync(under, { withFileTypes: true }).flatMap((entry) => {
    const path = join(under, entry.name);
    return entry.isDirectory() ? files(path) : [path];
  });

// The compiler makes one module of the page's program. wasm-split moves what is not needed at first into files of its own;
// it goes by the linker's relocations, which wasm-bindgen drops, so that what trunk did with wasm-bindgen is done again.
const program = readdirSync(folder).flatMap((name) => /^(hydra-web-[0-9a-f]+)\.js$/.exec(name)?.[1] ?? [])[0];
if (!program) throw new Error(`finish-page: ${folder} holds no hydra-web-….js`);
const run = (tool, ...given) => {
  const own = join(cache, "tools/bin", tool);
  try {
    return execFileSync(existsSync(own) ? own : tool, given, { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "inherit"] });
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    throw new Error(`finish-page: ${tool} is missing; scripts/serve --tools installs it`);
  }
};
const target = JSON.parse(run("cargo", "metadata", "--format-version=1", "--no-deps", "--offline")).target_directory;
const scratch = mkdtempSync(join(tmpdir(), "hydra-page-"));
run("wasm-split-cli", "--target=web", `--out-name=${program}`, join(target, "wasm32-unknown-unknown/wasm-release/hydra-web.wasm"), scratch);
run("wasm-bindgen", "--target=web", "--no-typescript", "--keep-lld-exports", `--out-dir=${folder}`, `--out-name=${program}`, join(scratch, `${program}.wasm`));
// Every pattern is of what another tool writes today: where one is not found, the page would be broken or slow in silence.
const replaced = (text, pattern, by, where) => {
  let count = 0;
  const result = text.replaceAll(pattern, (...found) => (count++, by(...found)));
  if (count === 0) throw new Error(`finish-page: ${where} holds no ${pattern}; the tool that writes it has changed`);
  return result;
};
// The parts fit this program alone: its hash goes into their names, so that no cache mixes two.
const parts = readdirSync(scratch).filter((name) => /^(chunk|split)_\w+\.wasm$/.test(name));
const loader = replaced(readFileSync(join(scratch, "__wasm_split.js"), "utf8"), /"\.\/(\w+\.wasm)"/g, (_, part) => {
  if (!parts.includes(part)) throw new Error(`finish-page: the program loads ${part}, which wasm-split did not write`);
  return `"./${program}-${part}"`;
}, "__wasm_split.js");
writeFileSync(join(folder, `${program}-parts.js`), loader);
for (const part of parts) {
  if (!loader.includes(`"./${program}-${part}"`)) throw new Error(`finish-page: nothing loads ${part}`);
  copyFileSync(join(scratch, part), join(folder, `${program}-${part}`));
}
const start = join(folder, `${program}.js`);
const importing = 'from "./__wasm_split.js"';
writeFileSync(start, replaced(readFileSync(start, "utf8"), importing, () => `from "./${program}-parts.js"`, `${program}.js`));
rmSync(scratch, { recursive: true });

// Named features: with all of them binaryen writes a form of imports that browsers do not load.
const features = [
  "bulk-memory", "bulk-memory-opt", "reference-types", "mutable-globals", "sign-ext", "nontrapping-float-to-int",
  "multivalue", "call-indirect-overlong", "simd",
].map((name) => `--enable-${name}`);
const wasmOpt = process.env.HYDRA_WASM_OPT ?? join(cache, "tools/npm/node_modules/.bin/wasm-opt");
// What is sent is packed, and that is smallest where not every byte of a module was saved: in the program and the readers of
// files what has one caller stays a function of its own; in the small parts the smallest functions go into their callers.
const how = (path) => {
  if (/(performance|training)-worker/.test(path)) return ["-Oz"];
  if (/-(split|chunk)_/.test(path)) return ["-O2", "--always-inline-max-function-size=4", "--code-folding", "--reorder-functions"];
  return ["-O2", "--one-caller-inline-max-function-size=20"];
};
if (wasmOpt !== "0" && existsSync(wasmOpt)) {
  // The result of a module is kept, because the largest takes minutes.
  const kept = join(cache, "wasm-opt");
  mkdirSync(kept, { recursive: true });
  for (const path of files(folder).filter((path) => path.endsWith(".wasm"))) {
    const result = join(kept, `${sha256(Buffer.concat([readFileSync(path), Buffer.from(String(how(path)))]))}.wasm`);
    if (!existsSync(result)) {
      const partial = `${result}.${process.pid}`;
      // It warns of names that it drops; what goes wrong is in the error.
      execFileSync(wasmOpt, [...how(path), ...features, path, "-o", partial], { stdio: "pipe" });
      renameSync(partial, result);
    }
    copyFileSync(result, path);
  }
} else {
  console.warn("finish-page: no wasm-opt (npm's binaryen, which scripts/serve and scripts/test install): modules stay larger");
}

// The Python logger, which the page hands out. Trunk would call it by the name of what the link in scripts/ leads to.
copyFileSync("scripts/hydra_grad_logger.py", join(folder, "hydra_grad_logger.py"));

// Trunk starts the program from a script inside the page, which script-src 'self' forbids.
const page = join(folder, "index.html");
const scripts = [];
const without = replaced(readFileSync(page, "utf8"), /<script type="module"[^>]*>([\s\S]*?)<\/script>/g, (whole, text) => {
  if (!text.trim()) return whole;
  scripts.push(text.trim());
  return "";
}, "index.html");
if (scripts.length !== 1) throw new Error(`finish-page: index.html holds ${scripts.length} scripts in place of trunk's one`);
scripts.push("navigator.serviceWorker?.register('./service-worker.js');");
writeFileSync(join(folder, "boot.js"), scripts.join("\n") + "\n");
const booting = '<script type="module" src="./boot.js"></script></head>';
writeFileSync(page, replaced(without, "</head>", () => booting, "index.html"));

// Trunk starts workers in a form that wasm-bindgen warns about, and without a word of how much has come: a server that packs
// what it sends cannot say how much there is.
const loaders = files(folder).filter((path) => path.endsWith("_loader.js"));
if (loaders.length === 0) throw new Error("finish-page: trunk wrote no …_loader.js for the workers");
for (const path of loaders) {
  const starting = /wasm_bindgen\((["'][^"']+["'])\)/g;
  writeFileSync(path, replaced(readFileSync(path, "utf8"), starting, (_, file) => {
    const whole = statSync(join(folder, file.slice(1, -1))).size;
    // Without a catch the page would never hear of a program that cannot be loaded.
    return `const loading = async (answer) => {
  const pieces = answer.body.getReader();
  for (let came = 0, told = 0, piece; !(piece = await pieces.read()).done; ) {
    came += piece.value.length;
    if (came - told < ${Math.ceil(whole / 40)}) continue;
    postMessage(\`loading \${(told = came)} ${whole}\`);
  }
};
const program = fetch(${file}).then((answer) => (loading(answer.clone()).catch(() => {}), answer));
wasm_bindgen({ module_or_path: program }).catch((error) => setTimeout(() => { throw error; }))`;
  }, path));
}

// The network first, so that nobody sees an old page; what was loaded once is there without it. Files with a hash in their
// names never change: once kept, they are not asked for again. The page and its parts are kept from the start, the large
// workers when they are first used. Trunk writes a hash of 64 bits without its leading zeros.
const fixed = /-[0-9a-f]{8,16}(-\w+|_bg)?\.(js|wasm|css)$/;
const listed = files(folder).map((path) => relative(folder, path)).filter((path) => path !== "service-worker.js").sort();
const version = sha256(listed.map((path) => `${path} ${sha256(readFileSync(join(folder, path)))}`).join("\n")).slice(0, 16);
const first = listed.filter((path) => !/-worker|tiny-mobilevlm\//.test(path) || /^ingest-worker/.test(path));
for (const path of first.filter((path) => /^(hydra-web|style)-/.test(path))) {
  if (!fixed.test(path)) throw new Error(`finish-page: ${path} has no hash in its name that the service worker knows`);
}
for (const part of ["ingest-worker_bg.wasm", "help.html", "hydra_grad_logger.py", `${program}_bg.wasm`, `${program}.js`, "boot.js"]) {
  if (!first.includes(part)) throw new Error(`finish-page: there is no ${part} for the service worker to keep`);
}
writeFileSync(
  join(folder, "service-worker.js"),
  `const KEPT = "hydra-${version}";
const FIRST = ${JSON.stringify(["./", ...first.filter((path) => path !== "index.html")])};
const NEVER_CHANGES = ${fixed};
self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(FIRST)).then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith("hydra-") && name !== KEPT);
  event.waitUntil(caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});
self.addEventListener("fetch", (event) => {
  const request = event.request;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  const kept = () => caches.match(request, { ignoreSearch: true });
  const fresh = () => fetch(request).then((answer) => {
    if (answer.ok) {
      const copy = answer.clone();
      event.waitUntil(caches.open(KEPT).then((kept) => kept.put(request, copy)));
    }
    return answer;
  });
  event.respondWith(
    NEVER_CHANGES.test(request.url)
      ? kept().then((known) => known ?? fresh())
      : fresh().catch(() => kept().then((known) => known ?? Response.error())),
  );
});
`,
);
