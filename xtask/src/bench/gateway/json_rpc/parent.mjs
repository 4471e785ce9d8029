// Asks a child in JSON-RPC, a line a message: parent.mjs PYTHON CHILD OPERATIONS IN_FLIGHT
import { spawn } from "node:child_process";

const [python, script, operations, inFlight] = process.argv.slice(2);
const child = spawn(python, [script], { stdio: ["pipe", "pipe", "inherit"] });
child.on("exit", () => process.exit(done ? 0 : 1));

const waiting = new Map();
let last = 0;
let rest = "";
let done = false;

child.stdout.setEncoding("utf8");
child.stdout.on("data", (data) => {
  const lines = (rest + data).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    const answer = JSON.parse(line);
    waiting.get(answer.id)(answer.result);
    waiting.delete(answer.id);
  }
});

function call(text) {
  const id = ++last;
  child.stdin.write(JSON.stringify({ jsonrpc: "2.0", id, method: "count", params: { text } }) + "\n");
  return new Promise((resolve) => waiting.set(id, resolve));
}

async function run(count, atOnce) {
  let begun = 0;
  const worker = async () => {
    while (begun < count) {
      begun += 1;
      if ((await call("hello")) !== 5) throw new Error("a wrong answer");
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

await run(Math.min(2000, Number(operations)), Number(inFlight));
const begin = process.hrtime.bigint();
await run(Number(operations), Number(inFlight));
const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
done = true;
console.log(JSON.stringify({ seconds }));
child.stdin.end();
