// Keeps gradio's requests and answers in the order of the visitor's actions.
//
// Every action is a request of its own ("join"), and one stream brings the answers to all of them. Three
// things can go wrong: requests sent at the same time may overtake each other; an answer that arrives
// before its request has returned is put aside, and later shown over newer ones; and a request made just
// as the stream ends waits for its answer in a stream that is over. So here requests are sent one after
// another, messages wait for requests in progress, and the stream continues while answers are due.
(() => {
  const plain = window.fetch;
  const unanswered = new Set(); // ids of the events asked
  let asked = Promise.resolve(); // settles when all requests so far have been handed to gradio

  const join = (where, how) => {
    const response = asked.then(() => plain(where, how));
    const known = async () => {
      const { event_id } = await (await response).clone().json();
      if (event_id) unanswered.add(event_id);
      await new Promise((resolve) => setTimeout(resolve, 5)); // gradio registers the event
    };
    asked = known().catch(() => {}); // refused, or no connection: there is nothing to wait for
    return response;
  };

  // The messages of a stream, unchanged: "data: {...}\n\n".
  async function* messages(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      yield* parts;
    }
  }

  const stream = async (where, how) => {
    const first = await plain(where, how);
    if (!first.ok) return first;
    async function* all() {
      for (let response = first; ; response = await plain(where, how)) {
        if (!response.ok) throw new Error(`The stream of answers cannot go on (${response.status}).`);
        let over = false;
        for await (const message of messages(response)) {
          await asked;
          const [, kind, id] = /"msg": ?"(\w+)"(?:, ?"event_id": ?"(\w+)")?/.exec(message) ?? [];
          if (kind === "process_completed") unanswered.delete(id);
          over = kind === "close_stream" && unanswered.size > 0;
          if (!over) yield message;
        }
        if (!over) return;
      }
    }
    const given = all(), encoder = new TextEncoder();
    const body = new ReadableStream({
      async pull(to) {
        const { value, done } = await given.next();
        done ? to.close() : to.enqueue(encoder.encode(`${value}\n\n`));
      },
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };

  window.fetch = (where, how) => {
    const path = new URL(where.url ?? where, location.href).pathname;
    return path.endsWith("/queue/join") ? join(where, how) : path.endsWith("/queue/data") ? stream(where, how) : plain(where, how);
  };
})();
