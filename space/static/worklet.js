// SPDX-License-Identifier: Apache-2.0
// Runs in the audio thread: passes on the microphone's samples in chunks, each with its first frame by the context's clock.

const CHUNK = 1024;
class Take extends AudioWorkletProcessor {
  chunk = new Float32Array(CHUNK);
  filled = 0;
  open = true;
  constructor() {
    super();
    this.port.onmessage = () => {
      this.open = false;
    };
  }

  process([channels]) {
    // before the microphone delivers, record silence: no frame may be missing
    const samples = channels[0] ?? new Float32Array(128);
    if (this.filled === 0) this.frame = currentFrame;
    this.chunk.set(samples, this.filled);
    this.filled += samples.length;
    if (this.filled === CHUNK) {
      this.port.postMessage({ frame: this.frame, samples: this.chunk });
      [this.chunk, this.filled] = [new Float32Array(CHUNK), 0];
    }
    return this.open;
  }
}

registerProcessor("hafm-take", Take);
