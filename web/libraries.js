/**
 * Copies the explorer's libraries out of node_modules into one folder, one ES module per package.
 *
 * Why: the explorer is not bundled. A page resolves bare names by an import map, and the one-file export puts each
 * module into a `data:` address, where relative imports cannot work. So each package becomes ONE file: its published
 * UMD build, wrapped so that what it `require`s is imported by bare name and what it exports is exported by name.
 *
 * Usage: node libraries.js OUTPUT_FOLDER
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { argv, cwd } from "node:process";

const modules = join(cwd(), "node_modules");
const read = async (/** @type {string[]} */ ...path) => readFile(join(modules, ...path), "utf8");

/** Names of the packages that a package imports. */
function needs(/** @type {any} */ manifest) {
  return Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });
}

/** Packages by name with the names they import, from the roots down. */
async function closure(/** @type {string[]} */ roots) {
  /** @type {Map<string, any>} */
  const found = new Map();
  const queue = [...roots];
  for (let name = queue.shift(); name; name = queue.shift()) {
    if (found.has(name)) continue;
    const manifest = JSON.parse(await read(name, "package.json"));
    found.set(name, manifest);
    queue.push(...needs(manifest));
  }
  return found;
}

/** One package's UMD build as one ES module. */
async function wrap(/** @type {string} */ name, /** @type {any} */ manifest) {
  const umd = await read(name, manifest.exports.umd);
  const imports = needs(manifest);
  const names = Object.keys(await import(createRequire(join(modules, "x.js")).resolve(name)));
  const licence = await read(name, "LICENSE");
  return [
    `/* ${name} ${manifest.version}\n${licence.replaceAll("*/", "* /")}*/`,
    ...imports.map((each, index) => `import * as import${index} from "${each}";`),
    "const exports = {}, module = { exports };",
    `const require = (name) => ({ ${imports.map((each, index) => `"${each}": import${index}`).join(", ")} })[name];`,
    umd,
    `export const { ${names.join(", ")} } = exports;`,
    "",
  ].join("\n");
}

const output = argv[2];
if (!output) throw new Error("Name the output folder: node libraries.js OUTPUT_FOLDER");
const { dependencies } = JSON.parse(await readFile("package.json", "utf8"));
await rm(output, { recursive: true, force: true });
await mkdir(output, { recursive: true });
for (const [name, manifest] of await closure(Object.keys(dependencies))) {
  await writeFile(join(output, `${name}.js`), await wrap(name, manifest));
}
