// Guided filter, step 7: step 6 ends in the detector's input, with its channels last.
//
// Convolutions in half precision want the channels of a pixel beside each other: (H, W, 3). Stored so
// here, the network takes the result as it is; planes, as of step 5, would be rearranged first.
//
// Same block, grid and macros as step 6; three channels, RGB.

#include "network_input.h"

#define STORE(q) out[(y * width + x) * 3 + c] = PACK(normalised(q, c))

#include "guided_6_march.cu"
