extern "C" __global__ void brighten(const unsigned char *image, unsigned char *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;  // the last block hangs over the end
    out[i] = min(image[i] + 40, 255);
}
