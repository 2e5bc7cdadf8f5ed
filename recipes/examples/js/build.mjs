// Usage: node build.mjs SOURCE.js WIT_FOLDER OUT.wasm

import { componentize } from '@bytecodealliance/componentize-js';
import { readFile, writeFile } from 'node:fs/promises';
const [, , source, wit, out] = process.argv;
// Without these features StarlingMonkey has nothing to import.
const { component, imports } = await componentize(await readFile(source, 'utf8'), {
    witPath: wit, worldName: 'recipe', disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
if (imports.length > 0) throw new Error(`it imports ${imports}`);
await writeFile(out, component);
