/*
 * Solves a proof of work in a Web Worker, so that the page stays usable:
 *
 *   const worker = new Worker("/proof-worker.js");
 *   worker.onmessage = ({ data }) => data.solution ? redeem(data.solution) : show(data.hashes);
 *   worker.postMessage({ challenge, bits });  // both as POST .../challenges answered them
 *
 * A page of another origin fetches this file and starts the worker of a Blob, as
 * web/seckill-client.js does; its policy needs `worker-src blob:`.
 *
 * About 2 ** bits hashes are needed; each PROGRESS of them are told. worker.terminate() gives up.
 * The solution is the least number for which SHA-256 of "challenge:number" begins with `bits` zero
 * bits. crypto.subtle would make a promise a hash; this hashes in place, and the blocks before the
 * number once.
 */
"use strict";

const PROGRESS = 1 << 16;
const ZERO = 48, NINE = 57;

const K = new Int32Array([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]);
const START = new Int32Array([
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]);
const W = new Int32Array(64);

/** Take the 64 bytes at `from` into `state` (FIPS 180-4, section 6.2.2). */
function compress(state, bytes, from) {
  for (let t = 0, i = from; t < 16; t++, i += 4) {
    W[t] = bytes[i] << 24 | bytes[i + 1] << 16 | bytes[i + 2] << 8 | bytes[i + 3];
  }
  for (let t = 16; t < 64; t++) {
    const x = W[t - 15], y = W[t - 2];
    const s0 = (x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ (x >>> 3);
    const s1 = (y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ (y >>> 10);
    W[t] = W[t - 16] + s0 + W[t - 7] + s1;
  }
  let a = state[0], b = state[1], c = state[2], d = state[3];
  let e = state[4], f = state[5], g = state[6], h = state[7];
  for (let t = 0; t < 64; t++) {
    const s1 = (e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7);
    const t1 = h + s1 + (e & f ^ ~e & g) + K[t] + W[t] | 0;
    const s0 = (a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10);
    const t2 = s0 + (a & b ^ a & c ^ b & c);
    h = g; g = f; f = e; e = d + t1 | 0;
    d = c; c = b; b = a; a = t1 + t2 | 0;
  }
  state[0] += a; state[1] += b; state[2] += c; state[3] += d;
  state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

/** Lay out the last blocks: what is left of the prefix, the number, and SHA-256's padding. */
function layOut(rest, digits, bytesBefore) {
  const end = rest.length + digits.length;
  const tail = new Uint8Array(end + 9 > 64 ? 128 : 64);
  tail.set(rest);
  for (let i = 0; i < digits.length; i++) tail[rest.length + i] = digits.charCodeAt(i);
  tail[end] = 0x80;
  new DataView(tail.buffer).setUint32(tail.length - 4, (bytesBefore + end) * 8);
  return tail;
}

/** Add one to the decimal number in tail[first .. last]; false when it needs a digit more. */
function increment(tail, first, last) {
  for (let i = last; i >= first; i--) {
    if (tail[i] !== NINE) {
      tail[i]++;
      return true;
    }
    tail[i] = ZERO;
  }
  return false;
}

function solve(challenge, bits) {
  const prefix = new TextEncoder().encode(challenge + ":");
  const fixed = prefix.length - prefix.length % 64;
  const begun = START.slice();
  for (let from = 0; from < fixed; from += 64) compress(begun, prefix, from);
  const rest = prefix.subarray(fixed);
  const state = new Int32Array(8);
  let hashes = 0;
  for (let digits = "0"; ; digits = digits === "0" ? "10" : digits + "0") {
    const tail = layOut(rest, digits, fixed);
    const first = rest.length, last = first + digits.length - 1;
    do {
      state.set(begun);
      for (let from = 0; from < tail.length; from += 64) compress(state, tail, from);
      hashes++;
      if (Math.clz32(state[0]) >= bits) {  // bits are at most 26: the first word tells
        return { solution: String.fromCharCode(...tail.subarray(first, last + 1)), hashes };
      }
      if (hashes % PROGRESS === 0) self.postMessage({ hashes });
    } while (increment(tail, first, last));
  }
}

self.onmessage = ({ data }) => self.postMessage(solve(data.challenge, data.bits));
