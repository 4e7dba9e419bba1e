// The exponentials of an image's logits and their sum (rule 8).
#pragma once
#include "elementary.cuh"

struct Exponentials {
  float largest, sum;
  int first;  // class of the largest logit
};

// Leaves exp(z - max) in e; `apart` is the distance between classes.
DEVICE Exponentials exponentials(const float* z, float* e, int classes, i64 apart = LANES) {
  Exponentials found{z[0], 0.0f, 0};
  for (int c = 1; c < classes; c++) {
    const float v = z[c * apart];
    if (v > found.largest) {
      found.largest = v;
      found.first = c;
    }
  }
  for (int c = 0; c < classes; c++) {
    const float v = elementary::rounded_exp(__fsub_rn(z[c * apart], found.largest));
    e[c * apart] = v;
    found.sum = __fadd_rn(found.sum, v);
  }
  return found;
}
