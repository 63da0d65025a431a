// SPDX-License-Identifier: Apache-2.0
// In the audio thread: hands on what the microphone gives, with the frame of the context's clock that it begins at.

const CHUNK = 1024;
class Take extends AudioWorkletProcessor {
  chunk = new Float32Array(CHUNK);
  filled = 0;

  process([channels]) {
    // a microphone that is not there yet is silent: no frame may be left out
    const samples = channels[0] ?? new Float32Array(128);
    if (this.filled === 0) this.frame = currentFrame;
    this.chunk.set(samples, this.filled);
    this.filled += samples.length;
    if (this.filled === CHUNK) {
      this.port.postMessage({ frame: this.frame, samples: this.chunk });
      [this.chunk, this.filled] = [new Float32Array(CHUNK), 0];
    }
    return true;
  }
}

registerProcessor("hafm-take", Take);
