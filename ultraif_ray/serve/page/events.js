// Server-sent events, as a response brings them.

/** The events of a stream of bytes, `{event, data}` each; one that the end cuts off is none. */
export async function* events(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let open = { event: "message", data: [] };
  let rest = "";
  try {
    for (let done = false; !done; ) {
      const read = await reader.read();
      done = read.done;
      rest += read.value ?? "";
      const held = rest.endsWith("\r") && !done ? 1 : 0; // it may be half of a \r\n
      const lines = rest.slice(0, rest.length - held).split(/\r\n|\n|\r/);
      rest = lines.pop() + rest.slice(rest.length - held);
      for (const line of lines) {
        if (line) take(line, open);
        else {
          if (open.data.length) yield { event: open.event, data: open.data.join("\n") };
          open = { event: "message", data: [] };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // of no use to whoever stopped reading
  }
}

function take(line, open) {
  const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
  if (field === "data") open.data.push(value);
  else if (field === "event") open.event = value;
}
