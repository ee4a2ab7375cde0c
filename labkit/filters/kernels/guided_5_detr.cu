// Guided filter, step 5: the filter ends in the detector's input.
//
// After the filter comes preprocessing: bytes to floats, channels to planes, ImageNet's mean and
// deviation. Each result of the filter is in a register anyway when it is stored, so it is
// normalised there and stored where the network reads it: (3, H, W), float or (-DHALF) half
// precision. A pass over memory and a launch less. The result is not rounded to a whole grey
// level on the way, so it is up to half a level (0.009 after normalising) from filtering first.
//
// Same block, grid and macros as step 4; three channels, RGB.

#include "network_input.h"

#define STORE(q) out[(c * height + y) * width + x] = PACK(normalised(q, c))

#include "guided_4_fused.cu"
