// Grey levels as a network's input: ImageNet's mean and deviation, in float or (-DHALF) half precision.
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
