// Guided filter, step 5: the filter ends in the detector's input.
//
// After the filter comes preprocessing: bytes to floats, channels to planes, ImageNet's mean and
// deviation. Each result of the filter is in a register anyway when it is stored, so it is
// normalised there and stored where the network reads it: (3, H, W), float or (-DHALF) half
// precision. A pass over memory and a launch less. The result is not rounded to a whole grey
// level on the way, so it is up to half a level (0.009 after normalising) from filtering first.
//
// Same block, grid and macros as step 4; three channels, RGB.

#ifdef HALF
#define RESULT unsigned short  // the 16 bits of a half
#define PACK(value) half_bits(value)
#ifndef CUDA_ON_CPU  // which brings its own
static __device__ unsigned short half_bits(float value)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif
#else
#define RESULT float
#define PACK(value) (value)
#endif

static __device__ float normalised(float gray_level, int c)
{
    const float mean = c == 0 ? 0.485f : c == 1 ? 0.456f : 0.406f;
    const float deviation = c == 0 ? 0.229f : c == 1 ? 0.224f : 0.225f;
    return (gray_level / 255.0f - mean) / deviation;
}

#define STORE(q) out[(c * height + y) * width + x] = PACK(normalised(q, c))

#include "guided_4_fused.cu"
