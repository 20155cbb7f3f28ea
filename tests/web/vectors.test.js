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

for (const { name, steps } of V2.stories) {
  test(`what "me" is told in "${name}"`, () => {
    let { session } = connected();
    let [seq, told, drawn] = [0, 0, 0];
    for (const { who, does, sends, gets } of steps) {
      if (who !== "me") continue;
      if (does === "connect") {
        session.closed(1006, NOW);
        session.start(NOW);
        session.opened(NOW);
      }
      const draw = sends && JSON.parse(sends).draw;
      if (draw && draw.op > drawn) {
        session.draw(draw.events);
        drawn = draw.op + draw.events.length - 1;
      }
      if (!gets) continue;
      told += 1;
      const { event, snapshot } = JSON.parse(gets);
      const seen = event && event.seq <= session.seq;
      const actions = session.received(gets, NOW);
      if (seen) {
        // A story's client may say that it has seen less than the page has.
        assert.deepEqual(actions, []);
      } else if (event) {
        assert.deepEqual(actions[0], { do: "events", events: [event] });
        seq = event.seq;
      } else if (snapshot?.last) {
        assert.equal(actions[0].do, "snapshot");
        seq = snapshot.seq;
      }
      assert.equal(session.state, "live", gets);
    }
    assert.ok(told > 0);
    assert.equal(session.seq, seq);
  });
}
