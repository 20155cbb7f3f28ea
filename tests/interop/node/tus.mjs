// Uploads a file with tus-js-client and prints what came of it as JSON.
//
//   node tus.mjs ENDPOINT FILE
import { createReadStream, statSync } from "node:fs";
import { Upload } from "tus-js-client";

const [endpoint, path] = process.argv.slice(2);
const requests = {};
let broken = 0;

const upload = new Upload(createReadStream(path), {
  endpoint,
  uploadSize: statSync(path).size,
  metadata: { filename: "Zoë.bin", filetype: "application/octet-stream" },
  // After progress the client begins anew with the first delay.
  retryDelays: [0, 10, 20, 50, 100, 200, 500],
  onBeforeRequest(request) {
    requests[request.getMethod()] = (requests[request.getMethod()] ?? 0) + 1;
  },
  onShouldRetry() {
    broken += 1;
    return true;
  },
  onError(error) {
    console.error(`${error}`);
    process.exit(1);
  },
  onSuccess({ lastResponse }) {
    const [key, link] = ["fawa-key", "fawa-link"].map((name) => lastResponse.getHeader(name));
    console.log(JSON.stringify({ url: upload.url, key, link, requests, broken }));
    process.exit(0);
  },
});
upload.start();
