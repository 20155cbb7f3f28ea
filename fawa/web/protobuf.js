// As much of protobuf's wire format as sending a file needs. Pure.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** @param {number} value a whole number from 0 to 2^53 - 1 */
export function varint(value) {
  const bytes = [];
  while (value >= 128) {
    bytes.push((value % 128) | 128);
    value = Math.floor(value / 128);
  }
  bytes.push(value);
  return bytes;
}

export function integerField(number, value) {
  return Uint8Array.from([number << 3, ...varint(value)]);
}

/** What stands before `length` bytes of content, when the content is appended separately. */
export function bytesHeader(number, length) {
  return Uint8Array.from([(number << 3) | 2, ...varint(length)]);
}

export function bytesField(number, bytes) {
  return concat(bytesHeader(number, bytes.length), bytes);
}

export function textField(number, text) {
  return bytesField(number, encoder.encode(text));
}

export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

/**
 * Read a message's fields: whole numbers as numbers, everything with a length as bytes; the last of a number wins.
 * @returns {Map<number, number | Uint8Array>}
 * @throws {RangeError} it is no message
 */
export function decode(bytes) {
  const fields = new Map();
  let place = 0;
  const take = (count) => {
    if (place + count > bytes.length) throw new RangeError("the message is cut off");
    place += count;
    return bytes.subarray(place - count, place);
  };
  const number = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const [byte] = take(1);
      value += (byte % 128) * factor;
      if (byte < 128) return value;
      if (factor > 2 ** 63) throw new RangeError("a number has no end");
    }
  };
  while (place < bytes.length) {
    const tag = number();
    const field = Math.floor(tag / 8);
    switch (tag % 8) {
      case 0:
        fields.set(field, number());
        break;
      case 1:
        take(8);
        break;
      case 2:
        fields.set(field, take(number()));
        break;
      case 5:
        take(4);
        break;
      default:
        throw new RangeError(`there is no wire type ${tag % 8}`);
    }
  }
  return fields;
}

export function text(bytes) {
  return decoder.decode(bytes ?? new Uint8Array());
}
