// What the server sends in the golden vectors (protocols/*.json), as the page takes it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Session } from "../../fawa/web/board/session.js";

const V2 = JSON.parse(readFileSync(new URL("../../protocols/whiteboard_v2.json", import.meta.url), "utf8"));
const NOW = 1000;

function connected() {
  const session = new Session({ name: "Ada", color: "#e91e63", random: () => 1 });
  session.start(NOW);
  const sent = session.opened(NOW).filter((action) => action.do === "send");
  return { session, sent };
}

test("the page's first hello is the stories' hello", () => {
  const vector = V2.documents.find(({ name }) => name === "hello");
  assert.deepEqual(JSON.parse(connected().sent[0].text), JSON.parse(vector.text));
});

const hellos = V2.documents.filter(({ side, value }) => side === "server" && value?.hello);

test("there are hellos of the server", () => assert.ok(hellos.length > 0));

for (const { name, text } of hellos) {
  test(`the server's ${name}`, () => {
    const { session } = connected();
    session.received(text, NOW);
    const { hello } = JSON.parse(text);
    assert.equal(session.state, "live");
    assert.deepEqual(session.identity, { client_id: hello.client_id, token: hello.token });
    assert.equal(session.readOnly, hello.read_only);
    assert.deepEqual(session.limits, hello.limits);
  });
}
